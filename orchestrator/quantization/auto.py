"""Quantizes a checkpoint to a budget by choosing a format for each group of modules.

The model is run through twice. First it runs over the calibration text as for any calibrated format. While a
layer is in memory, it runs again for each group and each format over fewer tokens, to measure the error of the
layer's output. Then formats are chosen for the whole model, see `choice`, and the layers are read again and written.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError, RecipeInvalidError
from orchestrator.events import Progress, silence
from orchestrator.quantization import layout, resources
from orchestrator.quantization.activation_probe import InputMoments, Measured
from orchestrator.quantization.activations import hidden_states
from orchestrator.quantization.calibrated import Settings, check_measured, write_quantized
from orchestrator.quantization.choice import BF16, Choice, Group, Option, choose
from orchestrator.quantization.format_names import AUTO, MAX, NEAREST
from orchestrator.quantization.layer_encoding import InputScales, Weights, rounded, scales_of_layer
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.linear_override import Arithmetic, Stored, operands
from orchestrator.quantization.model import LayeredModel
from orchestrator.quantization.onepass import largest_magnitude
from orchestrator.quantization.plan import Plan
from orchestrator.quantization.report import Report
from orchestrator.quantization.samples import picked, used_tokens
from orchestrator.quantization.schemes import SCHEMES, searching
from orchestrator.quantization.scratch import Scratch, fingerprint
from orchestrator.quantization.sensitivity import Probe, groups_of, probes
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from orchestrator.events import Event, Observer
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.schemes import Scheme

CANDIDATES = ("nvfp4", "fp8")
"""Formats of a group besides BF16."""


@frozen
class Budget:
    """The size of the result; one of the two is given."""

    bits_per_weight: float | None = None
    """For all modules that can be quantized together, scales included."""
    bytes: int | None = None
    """For all tensors of the checkpoint together."""


def quantize_auto(
    source: Path,
    output: Path,
    batches: Sequence[Batch],
    *,
    budget: Budget,
    kv_cache: str = "none",
    exclude: Sequence[str] = (),
    scale_search: str = MAX,
    rounding: str = NEAREST,
    input_scales: str = MAX,
    settings: Settings | None = None,
    observer: Observer = silence,
) -> Report:
    """Write a quantized copy of a checkpoint that is no larger than a budget.

    Args:
        source: The folder of an unquantized checkpoint.
        output: The folder to write to. It is created if it is missing.
        batches: The calibration batches.
        budget: The size of the result.
        kv_cache: `fp8` writes scales for keys and values.
        exclude: Shell patterns of modules that are not quantized, besides embedding, head and routers.
        scale_search: How the scales of NVFP4's blocks are chosen, while errors are measured as well.
        rounding: How NVFP4's numbers are rounded, likewise. With `gptq`, NVFP4 of all layers is kept in files: in
            `settings.scratch`, or in the output until the end.
        input_scales: How the scales of NVFP4's inputs are chosen: one of `format_names.INPUT_SCALES`.
        settings: How to work.
        observer: Gets the progress in layers, each of which is counted twice.

    Raises:
        RecipeInvalidError: The budget is too small for the smallest formats, or large enough for no format at all; or
            a pattern that matches nothing or splits what runtimes fuse.
        CheckpointError: As for `quantize_calibrated`.
        DependencyMissingError: torch or transformers is missing.
    """
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    how = settings or Settings()
    report = Report(AUTO, kv_cache, scale_search, rounding, input_scales=input_scales)
    schemes = searching(scale_search, rounding, input_scales=input_scales)
    surveyed = Plan.make(source, SCHEMES["fp8"], exclude, kv_cache)  # whose modules may have any shape
    searched = "".join(f"{choice} " for choice in (scale_search, input_scales) if choice != MAX)
    if rounding != NEAREST:
        searched += f"{rounding} {list(exclude)} "  # rounded weights are kept
    work = hashlib.sha256(f"auto {searched}{fingerprint(surveyed, batches, how.device)}".encode()).hexdigest()
    choose(
        _groups(surveyed, {}), _limit(surveyed, budget), _weights(surveyed)
    )  # refuse too small a budget before any layer runs
    with _scratch_folder(how, output, rounding) as folder:
        scratch = Scratch.open(folder, work, Measured.restored)
        halfway = partial(_half, observer, len(surveyed.layers))
        _Survey(surveyed, schemes, how, report, partial(halfway, 0)).run(batches, scratch)
        chosen = choose(_groups(surveyed, _errors(surveyed, scratch)), _limit(surveyed, budget), _weights(surveyed))
        plan = Plan.make(source, schemes["nvfp4"], exclude, kv_cache, chosen.formats, schemes=schemes)
        report.choice = _document(chosen, budget, surveyed)
        if not plan.selection.groups:
            message = "quantization.budget: the whole model fits as it is; nothing was quantized"
            raise RecipeInvalidError(message, hint="allow less, or use format bf16 with method none")
        known = replace(scratch, done=len(scratch.measured))
        rest = partial(halfway, len(surveyed.layers))
        write_quantized(plan, output, batches, known, how=how, report=report, observer=rest)
    return report


@contextmanager
def _scratch_folder(how: Settings, output: Path, rounding: str) -> Iterator[Path | None]:
    """Return the folder of the saved state; without one, a temporary folder for what GPTQ rounded of all layers."""
    if how.scratch is not None or rounding == NEAREST:
        yield how.scratch
        return
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rounded-", dir=output) as folder:
        yield Path(folder)


def _half(observer: Observer, layers: int, before: int, event: Event) -> None:
    """Report the progress of one of the two passes over the layers."""
    observer(replace(event, done=event.done + before, total=2 * layers) if isinstance(event, Progress) else event)


# --- measuring -----------------------------------------------------------------------------------------------------


@frozen
class _Seen:
    """What calibration showed of a layer."""

    measured: Measured
    kept: Mapping[str, NDArray[Any]]
    """By name within the layer: the importance of a module's inputs, or what GPTQ made of a weight, see `rounded`, and
    its `weight_scale_2`."""


@dataclass
class _Survey:
    """The walk that measures."""

    plan: Plan
    schemes: Mapping[str, Scheme]
    how: Settings
    report: Report
    observer: Observer

    @cached_property
    def smallest(self) -> Plan:
        """All modules in NVFP4 whose shape allows it."""
        odd = {
            module: self.schemes["fp8"]
            for module in self.plan.selection.quantized
            if self.plan.spec(f"{module}.weight").shape[-1] % self.schemes["nvfp4"].columns
        }
        return replace(self.plan, scheme=self.schemes["nvfp4"], formats=odd)

    def run(self, batches: Sequence[Batch], scratch: Scratch[Measured]) -> None:
        numbers = list(self.plan.layers)
        if scratch.done == len(numbers):
            return
        model = self._begin(batches, scratch)
        masks = [model.tensor(batch.mask).bool() for batch in batches[: probes(batches)]]
        for number in numbers[scratch.done :]:
            with self.report.cost.phase("read"):
                tensors = {name: self._read(name) for unit in self.plan.layers[number] for name in unit}
            scratch.measured.append(self._layer(model, number, tensors, masks, scratch))
            self._note(scratch, model)
            self.observer(Progress(len(scratch.measured), len(numbers), "layers", f"{self.plan.stack}.{number}"))

    def _begin(self, batches: Sequence[Batch], scratch: Scratch[Measured]) -> LayeredModel:
        how, torch = self.how, load_torch()
        way = resources.decide(
            self.smallest, batches, device=how.device, memory=how.memory, spill=how.spill, torch=torch
        )
        with self.report.cost.phase("load"):
            model = LayeredModel.load(self.plan, how.device)
            model.hidden = hidden_states(how.device, spill=way.spill, folder=how.scratch)
            model.begin(self._embedding(used := used_tokens(batches)), batches, used)
            if scratch.done:
                model.restore(scratch.hidden())
        return model

    def _embedding(self, used: NDArray[np.int64]) -> NDArray[Any]:
        name = self.plan.embedding
        self.report.cost.bytes_read += self.plan.checkpoint.tensors[name].read_size
        return picked(self.plan.rows(name, self.how.chunk_bytes), used, self.plan.spec(name))

    def _read(self, name: str) -> NDArray[Any]:
        self.report.cost.bytes_read += self.plan.checkpoint.tensors[name].read_size
        return self.plan.read(name)

    def _note(self, scratch: Scratch[Measured], model: LayeredModel) -> None:
        last = len(scratch.measured) == len(self.plan.layers)
        if last or (model.can_restore and scratch.is_due(self.how.seconds_between_notes)):
            with self.report.cost.phase("note"):
                scratch.save(() if last else model.state)

    def _layer(
        self,
        model: LayeredModel,
        number: int,
        tensors: dict[str, NDArray[Any]],
        masks: Sequence[Any],
        scratch: Scratch[Measured],
    ) -> Measured:
        """Run a layer unquantized, and then with each group in each format."""
        prefix, measured = f"{self.plan.stack}.{number}.", Measured()
        moments = InputMoments.of(self.schemes.values())
        inside = {name.removeprefix(prefix): array for name, array in tensors.items()}
        with (
            self.report.cost.phase("calibrate"),
            model.resident(number, dict(inside)) as layer,
            layer.running(measured=measured, moments=moments) as running,
        ):
            probe = Probe.running(model, running, masks, len(model.hidden))
        check_measured(self.plan, number, measured)
        if moments:
            measured.headroom = moments.headroom(measured.inputs)
        kept = self._kept(number, tensors, measured, moments) if moments else {}
        with self.report.cost.phase("try"):
            self._try(model, number, tensors, _Seen(measured, kept), probe)
        if moments is not None:
            scratch.keep(kept)
        model.forget(number)
        return measured

    def _kept(
        self, number: int, tensors: Mapping[str, NDArray[Any]], measured: Measured, moments: InputMoments
    ) -> Mapping[str, NDArray[Any]]:
        scheme = self.schemes["nvfp4"]
        if not scheme.compensates:
            return moments.importance(pairs=scheme.weighs_pairs)
        weights, prefix = Weights(tensors, self.plan.checkpoint.tensors), f"{self.plan.stack}.{number}."
        with self.report.cost.phase("round"):
            (found,) = rounded([self.smallest], number, weights, measured, moments)
            for name, scale in scales_of_layer(self.smallest, number, weights, measured).items():
                if (inside := name.removeprefix(prefix)) in found:
                    found[f"{inside}_scale_2"] = np.array(scale)
        return found

    def _try(
        self,
        model: LayeredModel,
        number: int,
        tensors: Mapping[str, NDArray[Any]],
        seen: _Seen,
        probe: Probe,
    ) -> None:
        """Run a layer with each group in each format, and record the error of its output."""
        prefix = f"{self.plan.stack}.{number}."
        inside = {name.removeprefix(prefix): array for name, array in tensors.items()}
        inputs = InputScales.of(prefix[:-1], seen.measured)
        known = {f"{prefix}{name}": array for name, array in seen.kept.items()}
        modules = [name.removesuffix(".weight") for name in tensors if self.plan.quantizes(name)]
        for group in groups_of(modules):
            errors = seen.measured.errors[group[0].removeprefix(prefix)] = {}
            for name in _candidates(self.plan, group):
                encoded = self._encode(self.schemes[name], group, tensors, inputs, known)
                alone = {module.removeprefix(prefix): part for module, part in encoded.items()}
                served = operands(model.torch, alone, model.device)
                mixed = {**inside, **{f"{module}.weight": operand.weight for module, operand in served.items()}}
                overrides = Arithmetic(model.torch, served).overrides
                with model.resident(number, mixed) as layer, layer.running(overrides=overrides) as forward:
                    errors[name] = probe.error(forward)

    def _encode(
        self,
        scheme: Scheme,
        group: Sequence[str],
        tensors: Mapping[str, NDArray[Any]],
        inputs: InputScales,
        known: Mapping[str, NDArray[Any]],
    ) -> dict[str, Stored]:
        """Encode a group as it would be written; `known` are those of `_Seen.kept` by their whole names."""
        made: dict[str, Stored] = {}
        for fused in layout.fusion_groups(group):
            source = self.plan.checkpoint.tensors
            amax = [largest_magnitude(tensors[f"{m}.weight"], source[f"{m}.weight"]) for m in fused]
            if scheme.shares(fused):
                amax = [max(amax)] * len(amax)
            for module, largest in zip(fused, amax, strict=True):
                scale, name = scheme.weight_scale(largest), f"{module}.weight"
                if scheme.compensates and name in known:
                    scale = np.float32(known[f"{name}_scale_2"])
                    encoded: Mapping[str, Any] = {suffix: known[f"{name}{suffix}"] for suffix in ("", "_scale")}
                else:
                    encoded = scheme.encode(tensors[name], scale, importance=known.get(module))
                input_scale = inputs.scale(scheme, module)
                made[module] = Stored(encoded[""], encoded.get("_scale"), scale, input_scale)
        return made


# --- choosing ------------------------------------------------------------------------------------------------------


def _candidates(plan: Plan, group: Sequence[str]) -> list[str]:
    """Name the formats that a group's shapes allow."""
    columns = [plan.spec(f"{module}.weight").shape[1] for module in group]
    return [name for name in CANDIDATES if not any(count % SCHEMES[name].columns for count in columns)]


def _errors(plan: Plan, scratch: Scratch[Measured]) -> dict[str, dict[str, float]]:
    """Return the measured errors, by the first module of each group."""
    pairs = zip(plan.layers, scratch.measured, strict=True)
    return {f"{plan.stack}.{number}.{first}": errors for number, m in pairs for first, errors in m.errors.items()}


def _groups(plan: Plan, errors: Mapping[str, Mapping[str, float]]) -> list[Group]:
    """Return every group with its formats, in order of the model. Without errors only the sizes count."""
    modules = [module for group in plan.selection.groups for module in group]
    return [Group(group, tuple(_options(plan, group, errors.get(group[0], {})))) for group in groups_of(modules)]


def _options(plan: Plan, group: Sequence[str], errors: Mapping[str, float]) -> list[Option]:
    weights = [plan.spec(f"{module}.weight") for module in group]
    exact = Option(BF16, sum(weight.size for weight in weights), 0.0)
    if plan.layer_of(weights[0].name) is None:
        return [exact]  # outside of the layers nothing is measured
    sizes = {
        name: sum(spec.size for weight in weights for spec in SCHEMES[name].specs(weight))
        for name in _candidates(plan, group)
    }
    return [*(Option(name, size, errors.get(name, 0.0)) for name, size in sizes.items()), exact]


def _weights(plan: Plan) -> int:
    """Count the numbers in all modules that can be quantized."""
    return sum(math.prod(plan.spec(f"{module}.weight").shape) for module in plan.selection.quantized)


def _limit(plan: Plan, budget: Budget) -> int:
    """Return the available bytes of the modules that can be quantized."""
    if budget.bits_per_weight is not None:
        return math.floor(budget.bits_per_weight * _weights(plan) / 8)
    assert budget.bytes is not None  # noqa: S101 - one of the two is given
    quantized = plan.selection.quantized
    cache = {name for unit in plan.units for name in plan.cache_scales(unit)}
    fixed = 0
    for spec in (spec for unit in plan.outputs for spec in unit):
        module, _, leaf = spec.name.rpartition(".")
        if spec.name in cache or leaf == "bias" or module not in quantized:
            fixed += spec.size
    return budget.bytes - fixed


def _document(chosen: Choice, budget: Budget, plan: Plan) -> dict[str, Any]:
    wanted = {"bits_per_weight": budget.bits_per_weight, "bytes": budget.bytes}
    return {"budget": wanted, "limit": _limit(plan, budget), **chosen.document()}
