"""Measures the error of a layer's output when some of its modules are quantized.

The error of a layer is measured where the next layer reads it: for each token, the power of the difference between the
two outputs over the power of the original output; the mean over tokens. Because of norms only the
direction of a token's vector matters, so every token counts alike. Small errors add
up over modules and layers. The choice of formats and the search for causes rely on this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.quantization import layout
from orchestrator.quantization.format_names import PROBE_TOKENS
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.quantization.model import LayeredModel, Running
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.torch_types import Tensor


def groups_of(modules: Iterable[str]) -> list[tuple[str, ...]]:
    """Group modules that must be quantized alike: fused ones, and all experts of a layer."""
    groups: dict[str, list[str]] = {}
    for fused in layout.fusion_groups(modules):
        block, experts, _ = fused[0].partition(".experts.")
        groups.setdefault(f"{block}{experts}" if experts else fused[0], []).extend(fused)
    return [tuple(group) for group in groups.values()]


def patterns_of(group: Sequence[str]) -> tuple[str, ...]:
    """Name a group for a recipe's `quantization.exclude`."""
    block, experts, _ = group[0].partition(".experts.")
    return (f"{block}.experts.*",) if experts else tuple(group)


@frozen
class Probe:
    """The unquantized inputs and outputs of a layer for some batches."""

    before: Sequence[Tensor]
    after: Sequence[Tensor]
    masks: Sequence[Tensor]

    @classmethod
    def running(cls, model: LayeredModel, running: Running, masks: Sequence[Tensor], batches: int) -> Probe:
        """Run batches of a model through a layer, and keep the first ones.

        Args:
            model: Its layer has its weights.
            running: The layer.
            masks: Masks of the batches to keep.
            batches: How many to run.
        """
        before = [model.hidden[position] for position in range(len(masks))]
        after = []
        for position in range(batches):
            output = running.advance(position)
            if position < len(masks):
                after.append(output)
        return cls(before, after, masks)

    def error(self, forward: Callable[[int, Tensor], Tensor]) -> float:
        """Run the layer with changes and return the mean relative error over tokens."""
        drift = Drift()
        for position, (before, after, mask) in enumerate(zip(self.before, self.after, self.masks, strict=True)):
            drift.add(after, forward(position, before), mask)
        return drift.mean


@dataclass
class Drift:
    """The mean over tokens of a relative error."""

    total: float = 0.0
    tokens: int = 0

    def add(self, exact: Tensor, found: Tensor, mask: Tensor) -> None:
        """Add the tokens of a batch.

        Args:
            exact: Shape [samples, length, hidden], or more dimensions if a token has several vectors.
            found: Of the same shape.
            mask: Shape [samples, length]: whether there is a token.
        """
        exact, found = (one[mask].flatten(1).double() for one in (exact, found))
        power = exact.square().sum(-1).clamp(min=1e-30)
        self.total += float(((found - exact).square().sum(-1) / power).sum())
        self.tokens += len(exact)

    @property
    def mean(self) -> float:
        """The relative error of a token."""
        return self.total / max(1, self.tokens)


def probes(batches: Sequence[Batch], tokens: int = PROBE_TOKENS) -> int:
    """Return how many batches, from the first on, have enough tokens."""
    seen = 0
    for position, batch in enumerate(batches):
        seen += int(batch.mask.sum())
        if seen >= tokens:
            return position + 1
    return len(batches)
