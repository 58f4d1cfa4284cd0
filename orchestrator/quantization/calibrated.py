"""Quantize a checkpoint whose formats need to know what flows through the model, in one walk over its layers.

Each layer is read once: its weights run all calibration samples, which tells how large inputs, keys and values get,
and the very same weights are then encoded and written. What is in memory is one layer and what flows into it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress, silence
from orchestrator.quantization import layout
from orchestrator.quantization.model import LayeredModel, Measured
from orchestrator.quantization.onepass import CHUNK_BYTES, largest_magnitude
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.report import Report
from orchestrator.quantization.scratch import Scratch, fingerprint
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.samples import Batch

KV_SCALE = np.float32(448)
"""Keys and values are FP8 numbers in the cache; the largest magnitude becomes the largest number."""


@dataclass(frozen=True)
class Settings:
    """How to work; nothing here changes a byte on one machine."""

    device: str = "cpu"
    """As torch names it."""
    ahead: bool = False
    """Read the next layer and write the last one while a layer runs: three layers in memory in place of one."""
    scratch: Path | None = None
    """Where to note how far it is, to go on from there; None: start over after an interruption."""
    seconds_between_notes: float = 60
    chunk_bytes: int = CHUNK_BYTES
    shard_bytes: int = SHARD_BYTES


def quantize_calibrated(
    source: Path,
    output: Path,
    batches: Sequence[Batch],
    *,
    number_format: str,
    kv_cache: str = "none",
    exclude: Sequence[str] = (),
    shared_scales: bool = False,
    settings: Settings | None = None,
    observer: Observer = silence,
) -> Report:
    """Write a quantized copy of a checkpoint, byte for byte the one that ModelOpt 0.47 exports on the same machine.

    Args:
        source: The folder of an unquantized checkpoint.
        output: The folder to write to; made where it is missing.
        batches: What runs through the model.
        number_format: One of `schemes.SCHEMES`; `w4a16_nvfp4` runs the model only for the scales of the cache.
        kv_cache: `fp8` writes scales for keys and values.
        exclude: Shell patterns of modules that stay as they are, with embedding, head and routers.
        shared_scales: Modules that engines fuse share the scale of their FP8 weights too; ModelOpt does not do that.
        settings: How to work.
        observer: Is told of progress in layers.

    Raises:
        RecipeInvalidError: An unknown format, or a pattern that fits nothing or splits what engines fuse.
        CheckpointError: The source cannot be read, is quantized already, lacks a tensor or holds NaN or infinity, or
            the activations do.
        DependencyMissingError: There is no torch or no transformers.
    """
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    how = settings or Settings()
    plan = Plan.make(source, scheme_named(number_format, shared_scales=shared_scales), exclude, kv_cache)
    report = Report(number_format, kv_cache)
    with CheckpointWriter(output, plan_shards(plan.outputs, how.shard_bytes)) as writer:
        walk = _Walk(plan, writer, how, report, observer)
        walk.run(batches)
    plan.write_companions(output)
    report.bytes_written = writer.size
    return report


@dataclass
class _Walk:
    """One run over the layers."""

    plan: Plan
    writer: CheckpointWriter
    how: Settings
    report: Report
    observer: Observer
    _noted: float = field(default_factory=time.monotonic)

    def run(self, batches: Sequence[Batch]) -> None:
        numbers = list(self.plan.layers)
        scratch = Scratch.open(self.how.scratch, fingerprint(self.plan, batches, self.how.device))
        model = self._begin(batches, scratch) if scratch.done < len(numbers) else None
        for unit in self.plan.units:
            if self.plan.layer_of(unit[0]) is None:
                self._copy(unit[0])
        with _Pipeline(numbers, self._read, self._write, ahead=self.how.ahead) as pipeline:
            for position, (number, tensors) in enumerate(pipeline.read()):
                if position < scratch.done:
                    measured = scratch.measured[position]
                else:
                    assert model is not None  # noqa: S101 - it is there where a layer is left
                    measured = self._measure(model, number, tensors)
                    self._note(scratch, model, measured, last=position == len(numbers) - 1)
                pipeline.write(number, tensors, measured)
                self.observer(Progress(position + 1, len(numbers), "layers", f"{self.plan.stack}.{number}"))

    def _begin(self, batches: Sequence[Batch], scratch: Scratch) -> LayeredModel:
        with self.report.phase("load"):
            model = LayeredModel.load(self.plan.checkpoint.folder, self.how.device)
            model.begin(self._read_tensor(self.plan.embedding), batches)
            if scratch.done:
                model.restore(scratch.hidden())
        return model

    def _note(self, scratch: Scratch, model: LayeredModel, measured: Measured, *, last: bool) -> None:
        scratch.measured.append(measured)
        now = time.monotonic()
        if last or now - self._noted >= self.how.seconds_between_notes:
            with self.report.phase("note"):
                scratch.save([] if last else model.state)
            self._noted = now

    def _measure(self, model: LayeredModel, number: int, tensors: Mapping[str, NDArray[Any]]) -> Measured:
        prefix = f"{self.plan.stack}.{number}."
        with self.report.phase("run"):
            measured = model.run(number, {name.removeprefix(prefix): array for name, array in tensors.items()})
        for module, amax in {**measured.inputs, "keys": measured.keys, "values": measured.values}.items():
            if not np.isfinite(amax):
                message = f"{prefix}{module}: the calibration ran into {amax}"
                hint = "the model cannot compute this text in its own number format; check the weights"
                raise CheckpointError(message, hint=hint)
        return measured

    # --- tensors ---

    def _copy(self, name: str) -> None:
        for first, rows in self.plan.rows(name, self.how.chunk_bytes):
            self.writer.write(name, rows if self.plan.spec(name).shape else rows.reshape(()), first)
        self.report.bytes_read += self.plan.checkpoint.tensors[name].size

    def _read(self, number: int) -> dict[str, NDArray[Any]]:
        with self.report.phase("read"):
            return {name: self._read_tensor(name) for unit in self.plan.layers[number] for name in unit}

    def _read_tensor(self, name: str) -> NDArray[Any]:
        self.report.bytes_read += self.plan.checkpoint.tensors[name].size
        return self.plan.read(name)

    def _write(self, number: int, tensors: Mapping[str, NDArray[Any]], measured: Measured) -> None:
        with self.report.phase("write"):
            amax = _input_amax(f"{self.plan.stack}.{number}", measured)
            for unit in self.plan.layers[number]:
                if self.plan.quantizes(unit[0]):
                    self._quantize(unit, tensors, amax)
                else:
                    self.writer.write(unit[0], tensors[unit[0]])
                for name, magnitude in zip(
                    self.plan.cache_scales(unit), (measured.keys, measured.values), strict=False
                ):
                    self.writer.write(name, np.array(_cache_scale(magnitude)))
            self.report.layer(f"{self.plan.stack}.{number}", measured)

    def _quantize(
        self, group: Sequence[str], tensors: Mapping[str, NDArray[Any]], inputs: Mapping[tuple[str, Any], float]
    ) -> None:
        scheme, source = self.plan.scheme, self.plan.checkpoint.tensors
        amax = [largest_magnitude(tensors[name], source[name]) for name in group]
        if scheme.shares(tuple(group)):
            amax = [max(amax)] * len(amax)
        for name, largest in zip(group, amax, strict=True):
            scale, module = scheme.weight_scale(largest), name.removesuffix(".weight")
            entry = self.report.tensor(module, scheme, scale)
            weight = tensors[name]
            step = max(1, self.how.chunk_bytes // max(1, self.plan.spec(name).row_bytes))
            for first in range(0, len(weight), step):
                rows = weight[first : first + step]
                encoded = scheme.encode(rows, scale)
                for suffix, part in encoded.items():
                    self.writer.write(f"{name}{suffix}", part, first)
                entry.add(rows, encoded)
            for suffix, scalar in scheme.scalars(scale).items():
                self.writer.write(f"{name}{suffix}", scalar)
            if scheme.calibrated:
                entry.input_scale = scheme.input_scale(inputs.get(layout.input_group(module), 0.0))
                self.writer.write(f"{module}.input_scale", np.array(entry.input_scale))


def _input_amax(layer: str, measured: Measured) -> dict[tuple[str, Any], float]:
    """Return the largest input of each group of modules that share its scale: the same for all experts of a layer."""
    found: dict[tuple[str, Any], float] = {}
    for module, amax in measured.inputs.items():
        group = layout.input_group(f"{layer}.{module}")
        found[group] = max(found.get(group, 0.0), amax)
    return found


def _cache_scale(amax: float) -> np.float32:
    scale = np.float32(amax) / KV_SCALE
    return scale if scale > 0 else np.float32(1)


@dataclass
class _Pipeline:
    """Reads layers before and writes them after they are used: at once, or beside the use of another layer."""

    numbers: Sequence[int]
    reader: Callable[[int], dict[str, Any]]
    writer: Callable[..., None]
    ahead: bool
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2))
    _written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None and self._written is not None:
                self._written.result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield layers in order; one that was yielded is not kept."""
        following = None
        for position, number in enumerate(self.numbers):
            tensors = following.result() if following else self.reader(number)
            following = None
            if self.ahead and position + 1 < len(self.numbers):
                following = self._pool.submit(self.reader, self.numbers[position + 1])
            yield number, tensors
            del tensors

    def write(self, *layer: Any) -> None:  # noqa: ANN401 - what the writer takes
        """Write a layer; the one before is written by then."""
        if self._written is not None:
            self._written.result()
        if self.ahead:
            self._written = self._pool.submit(self.writer, *layer)
        else:
            self.writer(*layer)
