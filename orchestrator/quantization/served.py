"""Runs a layer as a runtime computes it: with quantized weights, and inputs and cache as its kernels round them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.quantization.linear_override import Arithmetic
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from orchestrator.quantization.linear_override import Operand
    from orchestrator.quantization.model import LayeredModel, Running


@frozen
class Served:
    """A layer as a runtime computes it."""

    tensors: Mapping[str, Any]
    """The original's weights, by name within the layer."""
    operands: Mapping[str, Operand]
    """The quantized modules."""
    cache_scales: tuple[np.float32, np.float32] | None = None
    """Scales of keys and values, if the cache is FP8."""

    @contextmanager
    def running(self, model: LayeredModel, number: int) -> Iterator[Running]:
        """Run it in a block, in place of the model's own layer.

        Args:
            model: The model.
            number: The layer.
        """
        overrides = Arithmetic(model.torch, self.operands, self.cache_scales).overrides
        multiplied = {f"{module}.weight": operand.weight for module, operand in self.operands.items()}
        with (
            model.resident(number, {**self.tensors, **multiplied}) as layer,
            layer.running(overrides=overrides) as running,
        ):
            yield running
