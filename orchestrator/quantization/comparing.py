"""What comparing two models takes of memory, and whether what flows between layers fits beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.quantization import resources
from orchestrator.quantization.resources import Needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.quantized import Quantized
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.walk import WalkSettings

LOGITS_BYTES = 64_000_000
"""Of one model's logits at once, in FP32."""
_COMPARED = 8
"""Times the logits of one model that comparing takes."""
_DECODED = 5
"""Times a matrix in BF16 that decoding it takes besides the result: its codes as numbers, and halves of rows."""


@dataclass(frozen=True)
class ComparisonNeeds(Needs):
    """Bytes that a comparison takes: layers first, then the head, and what flows all along."""

    work: ClassVar[str] = "the comparison"
    hint: ClassVar[str] = "allow more, or lower checks.held_out.batch_size or sequence_length"

    head: int = 0
    """The head's weights, and what is computed with them."""

    def total(self, *, layers: int, spill: bool) -> int:  # noqa: ARG002 - one layer of each model at a time
        """Add up, with what flows between layers in memory or in a file."""
        between = 0 if spill else self.between
        return self.libraries + between + max(self.layer + self.gathered + self.batch, self.head)

    @property
    def parts(self) -> dict[str, int]:
        """For messages."""
        return {**super().parts, "or the head in place of a layer": self.head}


def spills(plan: Plan, quantized: Quantized, batches: Sequence[Batch], how: WalkSettings, torch: Any) -> bool:  # noqa: ANN401 - the library
    """Decide whether what flows between layers must be in a file.

    Args:
        plan: The original.
        quantized: What it became.
        batches: What runs through both.
        how: The device and its budget.
        torch: The library.

    Raises:
        MemoryBudgetError: There is too little even so.
    """
    host, device = _needs(plan, quantized, batches, how.device)
    budget = how.memory if how.memory is not None else resources.available()
    if resources.is_shared(torch, how.device):
        return resources.choose(_together(host, device), budget, spill=how.spill).spill
    resources.choose(host, budget, spill=how.spill)
    free = torch.cuda.mem_get_info(how.device)[0]
    return resources.choose(device, free, spill=how.spill, where="the GPU's memory").spill


def _needs(
    plan: Plan, quantized: Quantized, batches: Sequence[Batch], device: str
) -> tuple[ComparisonNeeds, ComparisonNeeds]:
    """Add up from shapes alone: what is read, which is the processor's, and what runs, which is the device's.

    Of a layer there are the original's weights, those that the quantized one stores, and these again as they are
    multiplied, in BF16. On a processor what is read is what runs; a GPU gets a copy.
    """
    ours = resources.needs(plan, batches, device)
    served, codes, widest = _quantized_bytes(plan, quantized)
    layers = [[plan.spec(name) for unit in units for name in unit] for units in plan.layers.values()]
    experts = max(sum(spec.size for spec in layer if ".experts." in spec.name) for layer in layers)
    head = max(plan.spec(name).size for name in plan.ends)
    longest = max(batch.tokens.size for batch in batches)
    logits = min(LOGITS_BYTES, longest * 4 * plan.spec(plan.embedding).shape[0])
    copied = device != "cpu"
    host = ComparisonNeeds(ours.libraries, ours.layer + codes, experts, 0, 0, head)
    running = ComparisonNeeds(
        libraries=resources.LIBRARIES_OF_GPU if copied else 0,
        layer=served + (ours.layer if copied else 0),
        gathered=experts if copied else 0,
        batch=ours.batch + _DECODED * widest,
        between=2 * ours.between,
        head=_COMPARED * logits + (head if copied else 0),
    )
    return host, running


def _quantized_bytes(plan: Plan, quantized: Quantized) -> tuple[int, int, int]:
    """Return, each of the layer that has most: quantized weights in BF16, as they are stored, and the largest one."""
    stored = quantized.checkpoint.tensors
    served = codes = widest = 0
    for modules in quantized.modules.values():
        weights = [plan.spec(f"{module}.weight").size for module in modules]
        served, widest = max(served, sum(weights)), max(widest, *weights)
        sizes = (stored[f"{module}.{leaf}"].size for module in modules for leaf in ("weight", "weight_scale"))
        codes = max(codes, sum(sizes))
    return served, codes, widest


def _together(host: ComparisonNeeds, running: ComparisonNeeds) -> ComparisonNeeds:
    """Add up what comes from one memory; `host` counts the libraries of a GPU already."""
    return ComparisonNeeds(
        host.libraries,
        host.layer + running.layer,
        host.gathered + running.gathered,
        host.batch + running.batch,
        host.between + running.between,
        host.head + running.head,
    )
