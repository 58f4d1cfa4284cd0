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
from orchestrator.quantization import configs, layout
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import copy_durably, read_json, write_json
from orchestrator.quantization.formats import nvfp4
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer

FORMATS = ("w4a16_nvfp4",)
CHUNK_BYTES = 16_000_000

# What travels with the weights, where a checkpoint has it: the tokenizer, how to chat and to sample, and the licence,
# whose text most licences ask to pass on.
_COMPANIONS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "chat_template*",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)

_FLOATS = ("BF16", "F16", "F32")


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
        number_format: One of `FORMATS`.
        exclude: Shell patterns of modules that stay as they are, with embedding and head.
        observer: Is told of progress in bytes read; a quantized tensor is read twice.
        chunk_bytes: How much of a tensor is in memory at once; a whole row at least.
        shard_bytes: The largest weights file, other than for a single larger tensor.

    Raises:
        RecipeInvalidError: An unknown format, or a pattern that fits nothing or splits what engines fuse.
        CheckpointError: The source cannot be read, is quantized already, lacks a tensor or holds NaN or infinity.
    """
    if number_format not in FORMATS:
        message = f"quantization.format: found {number_format!r}, which the one-pass quantizer cannot make"
        raise RecipeInvalidError(message, hint=f"It can make {', '.join(FORMATS)}; for others use another method.")
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    config = read_json(source / configs.CONFIG)
    checkpoint = Checkpoint.open(source)
    plan = _plan(checkpoint, config, exclude)
    with CheckpointWriter(output, plan_shards(_outputs(checkpoint, plan), shard_bytes)) as writer:
        _Conversion(checkpoint, writer, chunk_bytes, _Meter(observer, _bytes_to_read(checkpoint, plan))).run(plan)
    _write_companions(source, output, config, plan.selection)


@dataclass(frozen=True)
class _Plan:
    """What happens to each tensor, in the order in which it happens."""

    selection: layout.Selection
    units: tuple[tuple[str, ...], ...]
    """Names of tensors: weights that share a scale, or one tensor that is copied."""

    def quantizes(self, tensor: str) -> bool:
        """Say whether a tensor is a weight that is quantized."""
        return tensor.endswith(".weight") and tensor.removesuffix(".weight") in self.selection.quantized


def _plan(checkpoint: Checkpoint, config: Mapping[str, Any], exclude: Sequence[str]) -> _Plan:
    if "quantization_config" in config:
        message = f"{checkpoint.folder}: config.json has a quantization_config; expected an unquantized checkpoint"
        raise CheckpointError(message, hint="A checkpoint that is quantized already is served as it is: method none.")
    expected = layout.expected_tensors(config)
    kept = [name for name in checkpoint.tensors if not layout.is_redundant(name, expected)]
    _check_tensors(checkpoint, kept, expected)
    selection = layout.select([checkpoint.tensors[name] for name in kept], exclude)
    group_of = {f"{group[0]}.weight": tuple(f"{module}.weight" for module in group) for group in selection.groups}
    followers = {name for group in group_of.values() for name in group[1:]}
    units = tuple(group_of.get(name, (name,)) for name in kept if name not in followers)
    plan = _Plan(selection, units)
    _check_weights(checkpoint, plan)
    return plan


def _check_tensors(checkpoint: Checkpoint, kept: Sequence[str], expected: Mapping[str, TensorSpec]) -> None:
    for name, spec in expected.items():
        if name not in checkpoint.tensors:
            message = f"{checkpoint.folder}: {name} is missing; config.json asks for shape {list(spec.shape)}"
            raise CheckpointError(message)
        found = checkpoint.tensors[name]
        if found.shape != spec.shape:
            message = (
                f"{found.file}: {name}: found shape {list(found.shape)}, expected {list(spec.shape)} from config.json"
            )
            raise CheckpointError(message)
    for name in kept:
        if name not in expected:
            found = checkpoint.tensors[name]
            message = f"{found.file}: found {found}, which a model of this configuration does not have"
            raise CheckpointError(message)


def _check_weights(checkpoint: Checkpoint, plan: _Plan) -> None:
    for name in filter(plan.quantizes, checkpoint.tensors):
        weight = checkpoint.tensors[name]
        if weight.dtype not in _FLOATS:
            message = f"{weight.file}: {name}: found {weight.dtype}, expected one of {', '.join(_FLOATS)}"
            raise CheckpointError(message)
        if weight.shape[1] % nvfp4.BLOCK:
            message = f"{weight.file}: {name}: found {weight.shape[1]} inputs, expected a multiple of {nvfp4.BLOCK}"
            raise CheckpointError(message, hint="Exclude this module in the recipe.")


def _outputs(checkpoint: Checkpoint, plan: _Plan) -> list[list[TensorSpec]]:
    """Return what each unit leaves."""
    return [[spec for name in unit for spec in _output(checkpoint.tensors[name], plan)] for unit in plan.units]


def _output(tensor: TensorSpec, plan: _Plan) -> list[TensorSpec]:
    if plan.quantizes(tensor.name):
        return layout.quantized_specs(tensor, configs.W4A16_NVFP4)
    return [TensorSpec(tensor.name, tensor.dtype, tensor.shape)]


def _bytes_to_read(checkpoint: Checkpoint, plan: _Plan) -> int:
    return sum(
        checkpoint.tensors[name].size * (2 if plan.quantizes(name) else 1) for unit in plan.units for name in unit
    )


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

    source: Checkpoint
    writer: CheckpointWriter
    chunk_bytes: int
    meter: _Meter

    def run(self, plan: _Plan) -> None:
        for unit in plan.units:
            if plan.quantizes(unit[0]):
                self._quantize(unit)
            else:
                self._copy(unit[0])

    def _copy(self, name: str) -> None:
        scalar = not self.source.tensors[name].shape
        for first, rows in self.source.rows(name, self.chunk_bytes):
            self.writer.write(name, rows.reshape(()) if scalar else rows, first)
            self.meter.add(rows.nbytes, name)

    def _quantize(self, group: Sequence[str]) -> None:
        scale_2 = nvfp4.tensor_scale(max(self._largest_magnitude(name) for name in group))
        for name in group:
            self._encode(name, scale_2)

    def _largest_magnitude(self, name: str) -> float:
        largest = 0.0
        for first, rows in self.source.rows(name, self.chunk_bytes, again=True):
            here = float(np.abs(rows.astype(np.float32)).max(initial=0))  # NaN wins over every number
            if not np.isfinite(here):
                message = f"{self.source.tensors[name].file}: {name}: found {here} in row {_bad_row(rows) + first}"
                raise CheckpointError(message, hint="A model with such weights cannot be quantized; download it again.")
            largest = max(largest, here)
            self.meter.add(rows.nbytes, name)
        return largest

    def _encode(self, name: str, scale_2: np.float32) -> None:
        for first, rows in self.source.rows(name, self.chunk_bytes):
            encoded = nvfp4.encode(rows, scale_2)
            self.writer.write(name, encoded.codes, first)
            self.writer.write(f"{name}_scale", encoded.scales, first)
            self.meter.add(rows.nbytes, name)
        self.writer.write(f"{name}_scale_2", np.array(scale_2))


def _bad_row(rows: NDArray[Any]) -> int:
    return int(np.argmin(np.isfinite(rows.astype(np.float32)).all(axis=1)))


def _write_companions(source: Path, output: Path, config: Mapping[str, Any], selection: layout.Selection) -> None:
    for pattern in _COMPANIONS:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                copy_durably(file, output / file.name)
    excluded = layout.exclude_modules(selection.excluded, selection.quantized)
    write_json(output / configs.CONFIG, configs.quantized_config(config, excluded))
    write_json(output / configs.QUANT_CONFIG, configs.hf_quant_config(excluded))
