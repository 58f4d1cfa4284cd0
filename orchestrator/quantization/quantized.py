"""Reads a quantized checkpoint beside its original: the quantized modules by layer, and what smoothing changed.

All else is the original's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization import smoothing
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.experts import split_quantized
from orchestrator.quantization.linear_override import stored
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.linear_override import Stored
    from orchestrator.quantization.plan import Plan


@frozen
class Quantized:
    """A quantized checkpoint whose original is known."""

    checkpoint: Checkpoint
    stack: str
    """The prefix of a layer's number in a name."""
    modules: Mapping[int, tuple[str, ...]]
    """The quantized modules of each layer."""
    smoothed: Mapping[str, NDArray[np.int8]]
    """The exponents of the tensors that were multiplied by powers of two."""

    @classmethod
    def open(cls, folder: Path, original: Plan) -> Quantized:
        """Find the quantized modules.

        Raises:
            CheckpointError: It cannot be read, or quantizes modules that the original does not have.
        """
        checkpoint = split_quantized(Checkpoint.open(folder), original.checkpoint)
        found: dict[int, list[str]] = {}
        for name in checkpoint.tensors:
            if not name.endswith(".weight_scale"):
                continue
            module = name.removesuffix(".weight_scale")
            number = original.layer_of(name)
            if number is None or f"{module}.weight" not in original.checkpoint.tensors:
                what = "outside of the layers" if number is None else "which the original does not have"
                message = f"{folder}: {module} is quantized, {what}; expected linear modules of layers of the original"
                raise CheckpointError(message)
            found.setdefault(number, []).append(module)
        modules = {number: tuple(names) for number, names in found.items()}
        return cls(checkpoint, original.stack, modules, smoothing.read(checkpoint, original.checkpoint))

    def layer(self, number: int) -> dict[str, Stored]:
        """Read the quantized weights of a layer, by module within it."""
        prefix = f"{self.stack}.{number}."
        read = {module: stored(self.checkpoint, module) for module in self.modules.get(number, ())}
        return {module.removeprefix(prefix): part for module, part in read.items() if part is not None}

    def cache_scales(self, number: int) -> tuple[np.float32, np.float32] | None:
        """Return the scales of a layer's keys and values, if it has them."""
        prefix = f"{self.stack}.{number}."
        names = [name for name in self.checkpoint.tensors if name.startswith(prefix)]
        found = [name for end in (".k_proj.k_scale", ".v_proj.v_scale") for name in names if name.endswith(end)]
        if len(found) != 2:  # noqa: PLR2004 - of keys and of values
            return None
        return np.float32(self.checkpoint.read(found[0])), np.float32(self.checkpoint.read(found[1]))
