"""Quantizes a checkpoint tensor by tensor, in memory that does not depend on the size of the model or of a tensor.

Modules that a runtime fuses share one scale, so each such group is processed twice: first for its largest magnitude,
then to encode it. A small group stays in memory meanwhile. A large one is read again, usually from the page cache.
Everything else is copied. Reading, computing and writing overlap.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError, RecipeInvalidError
from orchestrator.events import Progress, silence
from orchestrator.quantization.cost import Cost
from orchestrator.quantization.format_names import MAX
from orchestrator.quantization.formats import kernels
from orchestrator.quantization.pipeline import Buffers, ReadAhead, WriteBehind
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.tensors import DTYPES, FLOATS
from orchestrator.quantization.torch_arrays import numbers
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.formats.e2m1 import Numbers
    from orchestrator.quantization.tensors import StoredTensor

CHUNK_BYTES = 4_000_000
_CHUNKS_AHEAD = 6
_CHUNKS_BEHIND = 4
_CHUNKS_KEPT = 12
"""A group of fused modules of up to this many pieces is read once, a larger one twice in a row."""
_BUFFERS = _CHUNKS_KEPT + (_CHUNKS_AHEAD + 2) + (_CHUNKS_BEHIND + 2)
"""Buffers for a kept group, for the queue, and for reading and type conversion; the same for writing."""
WEIGHT_ONLY = ("w4a16_nvfp4",)
"""Formats whose scales follow from the weights."""


def quantize_checkpoint(
    source: Path,
    output: Path,
    *,
    number_format: str = "w4a16_nvfp4",
    scale_search: str = MAX,
    exclude: Sequence[str] = (),
    observer: Observer = silence,
    chunk_bytes: int = CHUNK_BYTES,
    shard_bytes: int = SHARD_BYTES,
) -> Cost:
    """Write a quantized copy of a checkpoint; with the search `max` byte for byte the one that ModelOpt 0.47 exports.

    Args:
        source: The folder of an unquantized checkpoint.
        output: The folder to write to. It is created if it is missing.
        number_format: One of `WEIGHT_ONLY`.
        scale_search: One of `format_names.SCALE_SEARCHES` that follows no inputs.
        exclude: Shell patterns of modules that are not quantized, besides embedding and head.
        observer: Gets the progress in bytes read. A quantized tensor is read twice.
        chunk_bytes: Bytes of a tensor in memory at a time; at least a whole row.
        shard_bytes: The largest weight file, except for a single larger tensor.

    Returns:
        The cost by the phases `read`, `encode` and `write`, which overlap.

    Raises:
        RecipeInvalidError: An unknown format, or a pattern that matches nothing or splits what runtimes fuse.
        CheckpointError: The source cannot be read, is quantized already, lacks a tensor or holds NaN or infinity.
    """
    scheme = scheme_named(number_format, scale_search=scale_search)
    if scheme.calibrated:
        message = f"quantization.format: {number_format} needs calibration, which looks at more than weights"
        raise RecipeInvalidError(message, hint=f"Without it there is {', '.join(WEIGHT_ONLY)}.")
    if scheme.weighs_errors:
        message = f"quantization.scale_search: {scale_search} needs calibration, which looks at more than weights"
        raise RecipeInvalidError(message, hint="Without it there are max, mse and four_over_six.")
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    plan = Plan.make(source, scheme, exclude)
    with CheckpointWriter(output, plan_shards(plan.outputs, shard_bytes)) as writer:
        meter, buffers, cost = _Meter(observer, _bytes_to_read(plan)), Buffers(_BUFFERS, chunk_bytes), Cost()
        _Conversion(plan, writer, chunk_bytes, meter, buffers, cost).run()
    plan.write_companions(output)
    cost.bytes_written = writer.size
    cost.add("write", writer.seconds)
    return cost


def _bytes_to_read(plan: Plan) -> int:
    tensors = plan.checkpoint.tensors
    return sum(tensors[name].size * (2 if plan.quantizes(name) else 1) for unit in plan.units for name in unit)


@dataclass
class _Meter:
    """Counts bytes and reports them to the observer."""

    observer: Observer
    total: int
    done: int = 0

    def add(self, count: int, note: str) -> None:
        self.done += count
        self.observer(Progress(self.done, self.total, "bytes", note))


@frozen
class _Rows:
    """Rows of a tensor in memory that is released after use."""

    name: str
    first: int
    rows: NDArray[Any]
    give_back: Callable[[], None]


@frozen
class _End:
    """Marks the end of a tensor, or of a pass over a group."""


@frozen
class _Conversion:
    """The loop over units: reading runs ahead of it, writing behind it."""

    plan: Plan
    writer: CheckpointWriter
    chunk_bytes: int
    meter: _Meter
    buffers: Buffers
    cost: Cost

    def run(self) -> None:
        # Buffers first, because after a fault the reader may wait for one.
        with ReadAhead(self._read(), _CHUNKS_AHEAD) as ahead, WriteBehind(_CHUNKS_BEHIND) as behind, self.buffers:
            coming = iter(ahead)
            for unit in self.plan.units:
                if self.plan.quantizes(unit[0]):
                    self._quantize(unit, coming, behind)
                else:
                    self._copy(coming, behind)

    # --- in the thread that reads ---

    def _read(self) -> Iterator[_Rows | _End]:
        """Read all units once, and groups that are too large to keep twice."""
        for unit in self.plan.units:
            if self.plan.quantizes(unit[0]) and not self._keeps(unit):
                yield from self._read_unit(unit, again=True)
            yield from self._read_unit(unit)

    def _read_unit(self, unit: Sequence[str], *, again: bool = False) -> Iterator[_Rows | _End]:
        for name in unit:
            stored = self.plan.checkpoint.tensors[name]
            for first, last in self._runs(name):
                size = (last - first) * stored.row_bytes
                lent = self.buffers.lend(size)
                with self.cost.phase("read"):
                    rows = self.plan.checkpoint.read(name, first, last, again=again, into=lent.memory)
                self.cost.bytes_read += size * stored.read_size // stored.size
                yield self._converted(_Rows(name, first, rows, lent.give_back))
        yield _End()

    def _converted(self, part: _Rows) -> _Rows:
        """Convert rows to their target type."""
        kind = DTYPES[self.plan.types[part.name]]
        if part.rows.dtype == kind:
            return part
        lent = self.buffers.lend(part.rows.size * kind.itemsize)
        rows = lent.empty(part.rows.shape, kind)
        rows[...] = part.rows
        part.give_back()
        return _Rows(part.name, part.first, rows, lent.give_back)

    def _runs(self, name: str) -> Iterator[tuple[int, int]]:
        return self.plan.checkpoint.runs(name, self.chunk_bytes)

    def _keeps(self, unit: Sequence[str]) -> bool:
        """Tell whether a group is kept in memory between its two passes instead of read again."""
        return sum(1 for name in unit for _ in self._runs(name)) <= _CHUNKS_KEPT

    # --- in the thread that computes ---

    def _copy(self, coming: Iterator[_Rows | _End], behind: WriteBehind) -> None:
        for part in _until_the_end(coming):
            self._count(part)
            with self.cost.phase("encode"):
                require_finite(part.rows, self.plan.checkpoint.tensors[part.name], part.first)
            behind.do(partial(self.writer.write, part.name, part.rows, part.first), finally_=part.give_back)

    def _quantize(self, group: Sequence[str], coming: Iterator[_Rows | _End], behind: WriteBehind) -> None:
        kept: deque[_Rows] = deque()
        keeps, largest = self._keeps(group), 0.0
        for part in _until_the_end(coming):
            stored = self.plan.checkpoint.tensors[part.name]
            with self.cost.phase("encode"):
                largest = max(largest, largest_magnitude(part.rows, stored, part.first))
            self._count(part)
            if keeps:
                kept.append(part)
            else:
                part.give_back()
        scale = self.plan.scheme.weight_scale(largest)
        for part in _taken(kept) if keeps else _until_the_end(coming):
            self._encode(part, scale, behind)
        for name in group:
            for suffix, scalar in self.plan.scheme.scalars(scale).items():
                if (target := self.plan.scalar(name, f"{name}{suffix}")) is not None:
                    behind.do(partial(self.writer.write, target, scalar))

    def _encode(self, part: _Rows, scale: np.float32, behind: WriteBehind) -> None:
        self._count(part)
        lent = self.buffers.lend(part.rows.nbytes)  # no format takes more than what it encodes
        with self.cost.phase("encode"):
            encoded = self.plan.scheme.encode(part.rows, scale, lent.empty)
        part.give_back()
        behind.do(partial(self._write, part, encoded), finally_=lent.give_back)

    def _count(self, part: _Rows) -> None:
        self.meter.add(part.rows.size * DTYPES[self.plan.checkpoint.tensors[part.name].dtype].itemsize, part.name)

    # --- in the thread that writes ---

    def _write(self, part: _Rows, encoded: Mapping[str, NDArray[Any]]) -> None:
        for suffix, rows in encoded.items():
            self.writer.write(*self.plan.written(part.name, f"{part.name}{suffix}", rows, part.first))


def _until_the_end(coming: Iterator[_Rows | _End]) -> Iterator[_Rows]:
    for part in coming:
        if isinstance(part, _End):
            return
        yield part


def _taken(kept: deque[_Rows]) -> Iterator[_Rows]:
    """Return the kept rows and release them."""
    while kept:
        yield kept.popleft()


def largest_magnitude(rows: Numbers, tensor: StoredTensor, first: int = 0) -> float:
    """Return the largest magnitude of a weight or some of its rows, from row `first` on.

    Raises:
        CheckpointError: A number is not finite.
    """
    largest = float(kernels.largest_magnitude(rows))
    if not np.isfinite(largest):
        finite = np.atleast_1d(np.isfinite(numbers(rows)))
        row = int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
        message = f"{tensor.file}: {tensor.name}: found {largest} in row {row + first}"
        raise CheckpointError(message, hint="A model with such weights cannot be quantized; download it again.")
    return largest


def require_finite(rows: Numbers, tensor: StoredTensor, first: int = 0) -> None:
    """Check the numbers of a tensor that is copied, or of some of its rows, from row `first` on.

    Raises:
        CheckpointError: A number is not finite.
    """
    if tensor.dtype in FLOATS:
        largest_magnitude(rows, tensor, first)
