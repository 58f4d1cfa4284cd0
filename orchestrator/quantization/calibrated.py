"""Quantizes a checkpoint with calibration, in one pass over the model's layers.

Each layer is read once. Its weights process all calibration samples, which shows how large inputs, keys and values
get. Then the same weights are encoded and written. While a layer runs, the next one is read, and on a GPU the one
before is encoded. These layers and the hidden states are in memory.

The samples get to the next layer by the layer's own weights. With the layer inputs `quantized`, they get there by its
quantized weights, inputs and cache, as a runtime computes it: once a layer is measured and encoded, it runs again.
So each layer is calibrated on what it will get (ModelOpt's `get_qdq_activations_from_prev_layer`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.events import Progress, silence
from orchestrator.quantization import resources
from orchestrator.quantization.activation_probe import InputMoments, Measured
from orchestrator.quantization.activations import hidden_states
from orchestrator.quantization.experts import is_whole
from orchestrator.quantization.format_names import GPTQ, MAX, NEAREST, NONE, ORIGINAL, QUANTIZED
from orchestrator.quantization.formats import fp8
from orchestrator.quantization.formats.e2m1 import Numbers
from orchestrator.quantization.layer_encoding import (
    InputScales,
    Known,
    Weights,
    cache_scales,
    encoded_layer,
    rounded,
    weight_groups,
    weight_scales,
)
from orchestrator.quantization.layers import Layers
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.linear_override import operands
from orchestrator.quantization.model import LayeredModel
from orchestrator.quantization.onepass import require_finite
from orchestrator.quantization.pipeline import ReadAhead, WriteBehind
from orchestrator.quantization.plan import EXCLUDED, Plan, scheme_named
from orchestrator.quantization.report import Report
from orchestrator.quantization.residence import residence
from orchestrator.quantization.samples import picked, used_tokens
from orchestrator.quantization.scratch import Scratch, fingerprint
from orchestrator.quantization.served import Served
from orchestrator.quantization.smoothing import Smoother, changes_of
from orchestrator.quantization.torch_arrays import as_tensor
from orchestrator.quantization.walk import WalkSettings
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.cost import Cost
    from orchestrator.quantization.pipeline import Encoding
    from orchestrator.quantization.residence import Residence
    from orchestrator.quantization.samples import Batch

_WRITES_BEHIND = 4
_PIECES_AHEAD = 4
"""Of a tensor outside of the layers."""
_COPIED_AT_ONCE = 1_000_000
"""Bytes. The write queue is then as long as that of an encoded matrix, of which a piece becomes 1.1 MB in NVFP4.
Its length depends on the disk."""

_COPIED_BESIDE_A_GPU = 8_000_000
"""Bytes, of a process that has more than a gigabyte of libraries."""


@frozen
class Settings(WalkSettings):
    """Settings of the pass. None of them changes a byte on one machine."""

    chunk_bytes: int = _COPIED_AT_ONCE
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
    scale_search: str = MAX,
    rounding: str = NEAREST,
    smoothing: str = NONE,
    layer_inputs: str = ORIGINAL,
    input_scales: str = MAX,
    settings: Settings | None = None,
    observer: Observer = silence,
) -> Report:
    """Write a quantized copy of a checkpoint.

    With the search `max` it is byte for byte the one that ModelOpt 0.47 exports on the same machine.

    Args:
        source: The folder of an unquantized checkpoint.
        output: The folder to write to. It is created if it is missing.
        batches: The calibration batches.
        number_format: One of `schemes.SCHEMES`; `w4a16_nvfp4` runs the model only for the scales of the cache, for
            the searches `weighted` and `local_hessian` and for the rounding `gptq`.
        kv_cache: `fp8` writes scales for keys and values.
        exclude: Shell patterns of modules that are not quantized, besides embedding, head and routers.
        shared_scales: Fused modules share the scale of their FP8 weights, too. ModelOpt does not do that.
        scale_search: How the scales of NVFP4's blocks are chosen: one of `format_names.SCALE_SEARCHES`.
        rounding: How NVFP4's numbers are rounded: one of `format_names.ROUNDINGS`.
        smoothing: Which inputs are smoothed: one of `format_names.SMOOTHINGS`.
        input_scales: How the scales of NVFP4's inputs are chosen: one of `format_names.INPUT_SCALES`.
        layer_inputs: Which layers calculate the inputs of later ones: one of `format_names.LAYER_INPUTS`.
        settings: How to work.
        observer: Gets the progress in layers.

    Raises:
        RecipeInvalidError: An unknown format, or a pattern that matches nothing or splits what runtimes fuse.
        CheckpointError: The source cannot be read, is quantized already, lacks a tensor or holds NaN or infinity, or
            the activations do.
        DependencyMissingError: torch or transformers is missing.
        MemoryBudgetError: The allowed memory is too small.
    """
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    how = settings or Settings()
    scheme = scheme_named(
        number_format,
        shared_scales=shared_scales,
        scale_search=scale_search,
        rounding=rounding,
        input_scales=input_scales,
    )
    plan = Plan.make(source, scheme, exclude, kv_cache)
    report = Report(number_format, kv_cache, scale_search, rounding, smoothing, layer_inputs, input_scales)
    work = fingerprint(plan, batches, how.device)
    if scheme.compensates:
        work = f"{GPTQ} {scale_search} {list(exclude)} {work}"  # rounded weights are kept
    elif scheme.weighs_errors:
        work = f"{scale_search} {work}"  # more is measured
    if smoothing != NONE:
        work = f"smoothing {list(exclude)} {work}"  # by the weights that are quantized
    if scheme.leaves_headroom:
        work = f"{input_scales} {work}"
    if layer_inputs != ORIGINAL:  # which all choices change
        work = f"{layer_inputs} {scheme} {list(exclude)} {kv_cache} {work}"
    scratch = Scratch.open(how.scratch, work, Measured.restored)
    write_quantized(plan, output, batches, scratch, how=how, report=report, observer=observer)
    return report


def write_quantized(
    plan: Plan,
    output: Path,
    batches: Sequence[Batch],
    scratch: Scratch[Measured],
    *,
    how: Settings,
    report: Report,
    observer: Observer = silence,
) -> None:
    """Write a planned checkpoint. The model runs through the layers that are not measured yet."""
    if plan.kv_cache != "none":
        report.without_cache_scales = {f"{plan.stack}.{n}": why for n, why in plan.layers_without_cache_scales.items()}
    way = resources.decide(
        plan,
        batches,
        device=how.device,
        memory=how.memory,
        spill=how.spill,
        torch=load_torch(),
        quantized=report.layer_inputs == QUANTIZED,
    )
    writer, behind = CheckpointWriter(output, plan_shards(plan.outputs, how.shard_bytes)), WriteBehind(_WRITES_BEHIND)
    memory = residence(plan, writer, behind, how.device)
    model = None
    with Layers(list(plan.layers), partial(_taken_in, plan, memory, report.cost), way.layers) as layers:
        if scratch.done < len(plan.layers):
            with report.cost.phase("load"):
                model = LayeredModel.load(plan, how.device)  # refuses a model before anything is written
        with writer, behind, memory.encoding(beside=way.encodes_beside) as encoding:
            _Walk(plan, model, writer, memory, layers, encoding, how, way, report, observer).run(batches, scratch)
    plan.write_companions(output)
    report.cost.bytes_written += writer.size
    report.cost.add("write", writer.seconds)
    if how.device != "cpu":
        gpu = load_torch().cuda
        report.cost.device, report.cost.device_bytes = (
            gpu.get_device_name(how.device),
            gpu.max_memory_allocated(how.device),
        )


def _taken_in(plan: Plan, memory: Residence[Any], cost: Cost, number: int) -> dict[str, Any]:
    names = _names(plan, number)
    with cost.phase("read"):
        tensors = memory.take_in(names)
    cost.read(sum(plan.checkpoint.tensors[name].read_size for name in names))
    return tensors


def _names(plan: Plan, number: int) -> list[str]:
    return [name for unit in plan.layers[number] for name in unit]


@dataclass
class _Walk:
    """One run over the layers."""

    plan: Plan
    model: LayeredModel | None
    """None if every layer was measured before."""
    writer: CheckpointWriter
    memory: Residence[Any]
    layers: Layers
    encoding: Encoding
    how: Settings
    way: resources.Way
    report: Report
    observer: Observer

    def run(self, batches: Sequence[Batch], scratch: Scratch[Measured]) -> None:
        numbers = list(self.plan.layers)
        model = self.model
        if model is not None:
            self._begin(model, batches, scratch)
        self.encoding.do(partial(self._copy_ends, besides=None if model is None else self.plan.embedding))
        clock = _Clock(self.plan.stack, len(numbers), self.observer)
        for position, (number, tensors) in enumerate(self.layers):
            if position >= scratch.done:
                assert model is not None  # noqa: S101 - it exists when a layer ends
                measured = self._measure(model, number, tensors, scratch)
                self._note(scratch, model, measured, last=position == len(numbers) - 1)
            found = scratch.measured[position], scratch.taken(position)
            write = partial(self._write, number, tensors, *found, partial(clock.done, resumed=position < scratch.done))
            self.encoding.do(write, finally_=partial(self._let_go, number, tensors))
            del tensors, found, write

    def _begin(self, model: LayeredModel, batches: Sequence[Batch], scratch: Scratch[Measured]) -> None:
        how, embedding = self.how, self.plan.embedding
        with self.report.cost.phase("load"):
            folder = how.scratch or self.writer.folder
            model.hidden = hidden_states(how.device, spill=self.way.spill, folder=folder)
            used = used_tokens(batches)
            model.begin(picked(self._copied(embedding), used, self.plan.spec(embedding)), batches, used)
            if scratch.done:
                model.restore(scratch.hidden())

    def _note(self, scratch: Scratch[Measured], model: LayeredModel, measured: Measured, *, last: bool) -> None:
        scratch.measured.append(measured)
        if last or (model.can_restore and scratch.is_due(self.how.seconds_between_notes)):
            with self.report.cost.phase("note"):
                scratch.save(() if last else model.state)

    def _measure(
        self, model: LayeredModel, number: int, tensors: dict[str, Any], scratch: Scratch[Measured]
    ) -> Measured:
        prefix = f"{self.plan.stack}.{number}."
        scheme = self.plan.scheme
        moments = InputMoments.of([scheme])
        smoother = None if self.report.smoothing == NONE else Smoother.of(self.plan, number)
        within = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors)}
        stays = self.report.layer_inputs == QUANTIZED
        with self.report.cost.phase("calibrate"):
            measured = model.run(number, within, moments, smoother, stays=stays)
            self.memory.wait()
        tensors.update({f"{prefix}{name}": tensor for name, tensor in within.items()})
        check_measured(self.plan, number, measured)
        found: dict[str, NDArray[Any]] = smoother.found if smoother else {}
        if scheme.compensates and moments is not None:
            found |= self._rounded(number, self._weights(number, tensors, measured, found), measured, moments)
        elif scheme.weighs_errors and moments is not None:
            found |= moments.importance(pairs=scheme.weighs_pairs)
        if smoother or moments:
            scratch.keep(found)
        if stays:
            with self.report.cost.phase("calibrate"):
                self._advance(
                    model, number, self._weights(number, tensors, measured, found), Known(measured, found, found)
                )
                self.memory.wait()
        return measured

    def _advance(self, model: LayeredModel, number: int, weights: Weights, known: Known) -> None:
        """Run all batches through the quantized layer to the next one."""
        encoded = encoded_layer(self.plan, number, weights, known)
        tensors = {name.removeprefix(f"{self.plan.stack}.{number}."): weights.whole(name) for name in weights.tensors}
        cache = cache_scales(self.plan, number, known.measured)
        served = Served(tensors, operands(model.torch, encoded.stored, model.device), cache)
        with served.running(model, number) as running:
            for position in range(len(model.hidden)):
                running.advance(position)
        model.forget(number)

    def _weights(
        self, number: int, tensors: Mapping[str, Any], measured: Measured, found: Mapping[str, NDArray[Any]]
    ) -> Weights:
        prefix, changes = f"{self.plan.stack}.{number}.", changes_of(measured.smoothed, found)
        named = {f"{prefix}{name}": exponents for name, exponents in changes.items()}
        return Weights(tensors, self.plan.checkpoint.tensors, named, self.memory.pieces)

    def _rounded(
        self, number: int, tensors: Weights, measured: Measured, moments: InputMoments
    ) -> dict[str, NDArray[Any]]:
        with self.report.cost.phase("round"):
            return rounded([self.plan], number, tensors, measured, moments)[0]

    # --- tensors ---

    def _let_go(self, number: int, tensors: dict[str, Any]) -> None:
        tensors.clear()
        self.memory.let_go(_names(self.plan, number))
        self.layers.let_go()

    def _copy_ends(self, besides: str | None) -> None:
        """Copy the tensors outside of the layers."""
        for unit in self.plan.units:
            if self.plan.layer_of(unit[0]) is None and unit[0] != besides:
                for _ in self._copied(unit[0]):
                    pass

    def _copied(self, name: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Copy a tensor outside of the layers, and yield its rows meanwhile, so that it is read once."""
        tensor = self.plan.spec(name)
        size = self.how.chunk_bytes if self.how.device == "cpu" else _COPIED_BESIDE_A_GPU
        with ReadAhead(self.plan.rows(name, size), _PIECES_AHEAD) as ahead:
            for first, rows in ahead:
                require_finite(rows, self.plan.checkpoint.tensors[name], first)
                self.memory.put_out(name, rows if tensor.shape else rows.reshape(()), first)
                yield first, rows
        self.report.cost.read(self.plan.checkpoint.tensors[name].size)

    def _write(
        self,
        number: int,
        tensors: Mapping[str, Any],
        measured: Measured,
        kept: Mapping[str, NDArray[Any]],
        done: Callable[[int], None],
    ) -> None:
        with self.report.cost.phase("encode"):
            inputs = InputScales.of(f"{self.plan.stack}.{number}", measured)
            known = {f"{self.plan.stack}.{number}.{name}": array for name, array in kept.items()}
            weights = self._weights(number, tensors, measured, kept)
            for group in weight_groups(self.plan, number, measured):
                self._quantize(group, weights, inputs, known, measured)
            for module in measured.singular:
                entry = self.report.tensors.get(f"{self.plan.stack}.{number}.{module}")
                if entry is not None and entry.scheme.compensates:  # `auto` may give it another format
                    entry.is_singular = True
            for unit in self.plan.layers[number]:
                if not self.plan.quantizes(unit[0]):
                    require_finite(tensors[unit[0]], self.plan.checkpoint.tensors[unit[0]])
                    for first, rows in weights.pieces(unit[0]):
                        self.memory.put_out(unit[0], rows, first)
                for name, magnitude in zip(
                    self.plan.cache_scales(unit), (measured.keys, measured.values), strict=False
                ):
                    self.memory.put_out(name, np.array(fp8.tensor_scale(magnitude)))
            self.report.layer(f"{self.plan.stack}.{number}", measured)
            self.memory.wait()
        done(number)

    def _quantize(
        self,
        group: Sequence[str],
        tensors: Weights,
        inputs: InputScales,
        kept: Mapping[str, NDArray[Any]],
        measured: Measured,
    ) -> None:
        scheme, source = self.plan.scheme_of(group[0]), self.plan.checkpoint.tensors
        for name, scale in weight_scales(self.plan, group, tensors, measured):
            module, rounded = name.removesuffix(".weight"), scheme.compensates and name in kept
            if rounded and f"{name}_scale_2" in kept:
                scale = np.float32(kept[f"{name}_scale_2"])  # noqa: PLW2901 - with which `auto` rounded it
            entry = self.report.tensor(module, scheme, scale)
            entry.falls_back = not rounded if scheme.compensates else scheme.weighs_errors and module not in kept
            pieces = [(0, tensors.whole(name))] if is_whole(source[name]) else tensors.pieces(name)
            for first, rows in pieces:
                if rounded:
                    encoded = _rows_of(kept, name, first, rows)
                else:
                    encoded = scheme.encode(rows, scale, importance=kept.get(module))
                for suffix, part in encoded.items():
                    self.memory.put_out(*self.plan.written(name, f"{name}{suffix}", part, first))
                entry.add(rows, encoded)
            scalars = {f"{name}{suffix}": scalar for suffix, scalar in scheme.scalars(scale).items()}
            if scheme.calibrated:
                entry.input_scale = inputs.scale(scheme, module)
                entry.cuts_off = inputs.cuts_off(scheme, module)
                scalars[f"{module}.input_scale"] = np.array(entry.input_scale)
            for scalar, value in scalars.items():
                if (target := self.plan.scalar(name, scalar)) is not None:
                    self.memory.put_out(target, value)


def _rows_of(kept: Mapping[str, NDArray[Any]], name: str, first: int, rows: Numbers) -> dict[str, Numbers]:
    """Return what rows of a weight, from `first` on, became when it was rounded, where they are."""
    there = {suffix: kept[f"{name}{suffix}"][first : first + len(rows)] for suffix in ("", "_scale")}
    found: dict[str, Any] = there
    if not isinstance(rows, np.ndarray):
        found = {suffix: as_tensor(part, rows.device) for suffix, part in there.items()}
    return found


def check_measured(plan: Plan, number: int, measured: Measured) -> None:
    """Refuse a layer with NaN or infinite activations, or in which something was not recorded as planned.

    Raises:
        CheckpointError: Names the module.
        ModelUnsupportedError: Names the layer.
    """
    layer = f"{plan.stack}.{number}"
    for module, amax in {**measured.inputs, "keys": measured.keys, "values": measured.values}.items():
        if not np.isfinite(amax):
            message = f"{layer}.{module}: the calibration ran into {amax}"
            hint = "the model cannot compute this text in its own number format; check the weights"
            raise CheckpointError(message, hint=hint)
    experts = [name for unit in plan.layers[number] for name in unit if ".experts." in name and plan.quantizes(name)]
    if not measured.tokens and any(plan.scheme_of(name).calibrated for name in experts):
        message = f"{experts[0]}: no input of an expert was recorded; this transformers has no linear function for each"
        raise ModelUnsupportedError(message, hint="Method modelopt may quantize this model.")
    without = plan.layers_without_cache_scales.get(number)
    if plan.kv_cache == "none" or without == EXCLUDED or measured.attended == (without is None):
        return
    found = "it has attention, but no projection that is known to compute keys"
    if not measured.attended:
        found = "keys and values were not recorded: it uses no attention of transformers' interface, nor that of torch"
    message = f"quantization.kv_cache: {layer}: {found}"
    raise ModelUnsupportedError(message, hint="Set quantization.kv_cache: none, or exclude this layer.")


@dataclass
class _Clock:
    """Reports the progress, and the remaining time at the pace of the layers so far."""

    stack: str
    layers: int
    observer: Observer
    _done: int = 0
    _run: int = 0
    _started: float = field(default_factory=time.monotonic)

    def done(self, number: int, *, resumed: bool) -> None:
        """Report that a layer is done. Layers of an earlier process do not count for the pace."""
        self._done += 1
        if resumed:
            self._run, self._started = 0, time.monotonic()
        else:
            self._run += 1
        note = f"{self.stack}.{number}"
        if self._run and self._done < self.layers:
            seconds = (time.monotonic() - self._started) / self._run * (self.layers - self._done)
            note += f", {_time(seconds)} left"
        self.observer(Progress(self._done, self.layers, "layers", note))


def _time(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else f"{rest} s"  # noqa: PLR2004 - an hour
