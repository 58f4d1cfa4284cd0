"""Quantize a checkpoint tensor by tensor, in memory that does not depend on the size of the model or of a tensor.

Modules that an engine fuses share one scale, so each such group is read twice in a row: once for its largest magnitude,
once to encode it. The second time a group is usually still in the page cache. Everything else is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError, RecipeInvalidError
from orchestrator.events import Progress, silence
from orchestrator.quantization.formats import kernels
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.tensors import DTYPES
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.tensors import StoredTensor

CHUNK_BYTES = 16_000_000
WEIGHT_ONLY = ("w4a16_nvfp4",)
"""Formats whose scales follow from the weights."""


def quantize_checkpoint(
    source: Path,
    output: Path,
    *,
    number_format: str = "w4a16_nvfp4",
    exclude: Sequence[str] = (),
    observer: Observer = silence,
    chunk_bytes: int = CHUNK_BYTES,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a quantized copy of a checkpoint, byte for byte the one that ModelOpt 0.47 exports.

    Args:
        source: The folder of an unquantized checkpoint.
        output: The folder to write to; made where it is missing.
        number_format: One of `WEIGHT_ONLY`.
        exclude: Shell patterns of modules that stay as they are, with embedding and head.
        observer: Is told of progress in bytes read; a quantized tensor is read twice.
        chunk_bytes: How much of a tensor is in memory at once; a whole row at least.
        shard_bytes: The largest weights file, other than for a single larger tensor.

    Raises:
        RecipeInvalidError: An unknown format, or a pattern that fits nothing or splits what engines fuse.
        CheckpointError: The source cannot be read, is quantized already, lacks a tensor or holds NaN or infinity.
    """
    scheme = scheme_named(number_format)
    if scheme.calibrated:
        message = f"quantization.format: {number_format} needs calibration, which looks at more than weights"
        raise RecipeInvalidError(message, hint=f"Without it there is {', '.join(WEIGHT_ONLY)}.")
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    plan = Plan.make(source, scheme, exclude)
    with CheckpointWriter(output, plan_shards(plan.outputs, shard_bytes)) as writer:
        _Conversion(plan, writer, chunk_bytes, _Meter(observer, _bytes_to_read(plan))).run()
    plan.write_companions(output)


def _bytes_to_read(plan: Plan) -> int:
    tensors = plan.checkpoint.tensors
    return sum(tensors[name].size * (2 if plan.quantizes(name) else 1) for unit in plan.units for name in unit)


@dataclass
class _Meter:
    """Counts bytes and tells the observer."""

    observer: Observer
    total: int
    done: int = 0

    def add(self, count: int, note: str) -> None:
        self.done += count
        self.observer(Progress(self.done, self.total, "bytes", note))


@dataclass(frozen=True)
class _Conversion:
    """The loop over units, and what it does to each."""

    plan: Plan
    writer: CheckpointWriter
    chunk_bytes: int
    meter: _Meter

    def run(self) -> None:
        for unit in self.plan.units:
            if self.plan.quantizes(unit[0]):
                self._quantize(unit)
            else:
                self._copy(unit[0])

    def _copy(self, name: str) -> None:
        for first, rows in self.plan.rows(name, self.chunk_bytes):
            self.writer.write(name, rows if self.plan.spec(name).shape else rows.reshape(()), first)
            self._count(name, rows)

    def _quantize(self, group: Sequence[str]) -> None:
        scale = self.plan.scheme.weight_scale(max(self._largest_magnitude(name) for name in group))
        for name in group:
            self._encode(name, scale)

    def _largest_magnitude(self, name: str) -> float:
        largest = 0.0
        for first, rows in self.plan.rows(name, self.chunk_bytes, again=True):
            largest = max(largest, largest_magnitude(rows, self.plan.checkpoint.tensors[name], first))
            self._count(name, rows)
        return largest

    def _encode(self, name: str, scale: np.float32) -> None:
        for first, rows in self.plan.rows(name, self.chunk_bytes):
            for suffix, encoded in self.plan.scheme.encode(rows, scale).items():
                self.writer.write(f"{name}{suffix}", encoded, first)
            self._count(name, rows)
        for suffix, scalar in self.plan.scheme.scalars(scale).items():
            self.writer.write(f"{name}{suffix}", scalar)

    def _count(self, name: str, rows: NDArray[Any]) -> None:
        self.meter.add(rows.size * DTYPES[self.plan.checkpoint.tensors[name].dtype].itemsize, name)


def largest_magnitude(rows: NDArray[Any], tensor: StoredTensor, first: int = 0) -> float:
    """Return the largest magnitude of a weight or some of its rows, from row `first` on.

    Raises:
        CheckpointError: A number is not finite.
    """
    largest = float(kernels.largest_magnitude(rows))
    if not np.isfinite(largest):
        message = f"{tensor.file}: {tensor.name}: found {largest} in row {_bad_row(rows) + first}"
        raise CheckpointError(message, hint="A model with such weights cannot be quantized; download it again.")
    return largest


def _bad_row(rows: NDArray[Any]) -> int:
    return int(np.argmin(np.isfinite(rows.astype(np.float32)).all(axis=1)))
