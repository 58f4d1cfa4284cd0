"""Calculates the memory of comparing two models, and whether hidden states must be kept in a file."""

from __future__ import annotations

import operator
from dataclasses import astuple, replace
from typing import TYPE_CHECKING, ClassVar

from orchestrator.quantization import resources
from orchestrator.quantization.resources import Needs
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.quantized import Quantized
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.torch_types import Torch
    from orchestrator.quantization.walk import WalkSettings

LOGITS_BYTES = 64_000_000
"""Bytes of one model's logits at a time, in FP32."""
_COMPARED = 8
"""Factor of the logits of one model that comparing takes."""


@frozen
class ComparisonNeeds(Needs):
    """Bytes of a comparison: layers first, then the head, and hidden states all the time."""

    work: ClassVar[str] = "the comparison"
    hint: ClassVar[str] = "allow more, or lower checks.held_out.batch_size or sequence_length"

    head: int = 0
    """The head's weights and logits."""

    def total(self, *, layers: int, spill: bool) -> int:  # noqa: ARG002 - one layer of each model at a time
        """Add up, with hidden states in memory or in a file."""
        between = 0 if spill else self.between
        return self.libraries + between + max(self.layer + self.gathered + self.batch + self.products, self.head)

    @property
    def parts(self) -> dict[str, int]:
        """For messages."""
        return {**super().parts, "or the head in place of a layer": self.head}


def spills(plan: Plan, quantized: Quantized, batches: Sequence[Batch], how: WalkSettings, torch: Torch) -> bool:
    """Decide whether hidden states must be kept in a file.

    Args:
        plan: The original.
        quantized: The quantized checkpoint.
        batches: The batches for both.
        how: The device and its budget.
        torch: The library.

    Raises:
        MemoryBudgetError: The memory is too small even with a file.
    """
    host, device = comparison_needs(plan, _quantized_bytes(plan, quantized), batches, how.device)
    return spills_within(host, device, how, torch)


def spills_within(host: ComparisonNeeds, device: ComparisonNeeds, how: WalkSettings, torch: Torch) -> bool:
    """Decide the same from what the processor and the device need, see `comparison_needs`.

    Raises:
        MemoryBudgetError: The memory is too small even with a file.
    """
    budget = how.memory if how.memory is not None else resources.available()
    if resources.is_shared(torch, how.device):
        return resources.choose(_together(host, device), budget, spill=how.spill).spill
    resources.choose(host, budget, spill=how.spill)
    free = torch.cuda.mem_get_info(how.device)[0]
    return resources.choose(device, free, spill=how.spill, where="the GPU's memory").spill


def comparison_needs(
    plan: Plan, quantized: tuple[int, int, int], batches: Sequence[Batch], device: str
) -> tuple[ComparisonNeeds, ComparisonNeeds]:
    """Calculate from shapes alone: the processor's memory for reading, and the device's for running.

    A layer needs the original's weights, the stored quantized weights, and these again in BF16 for the
    multiplication. A processor runs what it reads. A GPU gets a copy.

    Args:
        plan: The original.
        quantized: Bytes of a layer's quantized weights in BF16, as stored, and of the largest one; over all layers.
        batches: The batches for both models.
        device: As torch names it.
    """
    ours = resources.needs(plan, batches, device)
    served, codes, widest = quantized
    layers = [[plan.spec(name) for unit in units for name in unit] for units in plan.layers.values()]
    experts = max(sum(spec.size for spec in layer if ".experts." in spec.name) for layer in layers)
    head = max(plan.spec(name).size for name in plan.ends)
    longest = max(batch.tokens.size for batch in batches)
    logits = min(LOGITS_BYTES, longest * 4 * plan.spec(plan.embedding).shape[0])
    copied = device != "cpu"
    host = ComparisonNeeds(ours.libraries, ours.layer + codes, experts, 0, 0, head=head)
    running = ComparisonNeeds(
        libraries=resources.LIBRARIES_OF_GPU if copied else 0,
        layer=served + (ours.layer if copied else 0),
        gathered=experts if copied else 0,
        batch=ours.batch + resources.DECODED * widest,
        between=2 * ours.between,
        head=_COMPARED * logits + (head if copied else 0),
    )
    return host, running


def _quantized_bytes(plan: Plan, quantized: Quantized) -> tuple[int, int, int]:
    """Return the maximum over layers of each: quantized weights in BF16, as stored, and the largest one."""
    stored = quantized.checkpoint.tensors
    served = codes = widest = 0
    for modules in quantized.modules.values():
        weights = [plan.spec(f"{module}.weight").size for module in modules]
        served, widest = max(served, sum(weights)), max(widest, *weights)
        sizes = (stored[f"{module}.{leaf}"].size for module in modules for leaf in ("weight", "weight_scale"))
        codes = max(codes, sum(sizes))
    return served, codes, widest


def _together(host: ComparisonNeeds, running: ComparisonNeeds) -> ComparisonNeeds:
    """Add up what uses one memory. `host` includes the libraries of a GPU already."""
    added = map(operator.add, astuple(host), astuple(running))
    return replace(type(host)(*added), libraries=host.libraries)
