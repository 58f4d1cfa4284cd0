"""Rules from the catalogue's known faults."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.catalog.image import Fault, Image
from orchestrator.errors import Refusal
from orchestrator.planner.case import Case


def known_faults(case: Case) -> Iterator[Refusal]:
    """Faults with effect `refuse` whose conditions all hold."""
    for fault in matching(case, case.image, case.quantizer):
        if fault.effect == "refuse":
            yield Refusal(fault.code, f"{fault.message} ({fault.source})", fault.hint)


def matching(case: Case, *images: Image) -> tuple[Fault, ...]:
    """Return each fault of the images that applies to this case, once.

    A missing condition always holds. On a machine without a GPU nothing is served, so a fault of some SM does not
    apply there.
    """
    found = dict.fromkeys(fault for image in images for fault in image.faults)
    return tuple(fault for fault in found if _concerns(fault, case))


def _concerns(fault: Fault, case: Case) -> bool:
    speculative = case.recipe.serve.speculative
    asked: tuple[tuple[tuple[object, ...], object], ...] = (
        (fault.sm, case.sm),
        (fault.formats, case.weight_format),
        (fault.methods, case.quantization.method),
        (fault.backends, case.recipe.backend),
        (fault.architectures, case.recipe.model.architecture),
        (fault.speculative, speculative.type if speculative else None),
    )
    return case.target.nodes >= fault.min_nodes and all(value in allowed for allowed, value in asked if allowed)
