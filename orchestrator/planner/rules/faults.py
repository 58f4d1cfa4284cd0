"""Rules from the catalogue's known faults."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.catalog.image import Fault, Image
from orchestrator.errors import Refusal
from orchestrator.planner.rule_input import RuleInput


def known_faults(given: RuleInput) -> Iterator[Refusal]:
    """Faults with effect `refuse` whose conditions all hold."""
    for fault in matching(given, given.image, given.quantizer):
        if fault.effect == "refuse":
            yield Refusal(fault.code, f"{fault.message} ({fault.source})", fault.hint)


def matching(given: RuleInput, *images: Image) -> tuple[Fault, ...]:
    """Return each fault of the images that applies to this given, once.

    A missing condition always holds. On a machine without a GPU nothing is served, so a fault of some SM does not
    apply there.
    """
    found = dict.fromkeys(fault for image in images for fault in image.faults)
    return tuple(fault for fault in found if _concerns(fault, given))


def _concerns(fault: Fault, given: RuleInput) -> bool:
    speculative = given.recipe.serve.speculative
    asked: tuple[tuple[tuple[object, ...], object], ...] = (
        (fault.sm, given.sm),
        (fault.formats, given.weight_format),
        (fault.methods, given.quantization.method),
        (fault.backends, given.recipe.backend),
        (fault.architectures, given.recipe.model.architecture),
        (fault.speculative, speculative.type if speculative else None),
        (fault.kv_cache, given.quantization.kv_cache),
    )
    if fault.unless_variable in given.recipe.serve.environment:
        return False
    return given.target.nodes >= fault.min_nodes and all(value in allowed for allowed, value in asked if allowed)
