"""Compares candidates with the original in one pass over the model's layers, see `candidate_findings`.

Each layer is read once. Its weights process the calibration samples, which shows how large and how important inputs
are, and the held-out samples of the original. Then they are encoded by each candidate in turn, and the held-out
samples of that candidate run through the result, with inputs and cache as a runtime rounds them. In memory are one
layer and the hidden states: of calibration, of the original, and of each candidate. After a kill, the pass continues at
the last saved layer.

A candidate finds what `quantize` and `evaluate` find of it on the same machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress, silence
from orchestrator.quantization import resources
from orchestrator.quantization.activation_probe import InputMoments, Measured
from orchestrator.quantization.activations import hidden_states
from orchestrator.quantization.calibrated import check_measured
from orchestrator.quantization.candidate_findings import Findings, LayerFindings, Sums
from orchestrator.quantization.comparing import ComparisonNeeds, comparison_needs, spills_within
from orchestrator.quantization.cost import Cost
from orchestrator.quantization.divergence import begin, divergence, predictions, run_quantized
from orchestrator.quantization.format_names import NONE
from orchestrator.quantization.layer_encoding import Known, Weights, cache_scales, encoded_layer, rounded
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.linear_override import operands
from orchestrator.quantization.model import LayeredModel
from orchestrator.quantization.plan import Plan
from orchestrator.quantization.schemes import searching
from orchestrator.quantization.scratch import Scratch, fingerprint
from orchestrator.quantization.served import Served
from orchestrator.quantization.smoothing import Smoother, changes_of, scaled
from orchestrator.quantization.walk import WalkSettings
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.candidates import Candidate
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.torch_types import HiddenStates, Tensor, Torch


@frozen
class CandidateNeeds(ComparisonNeeds):
    """Bytes of comparing candidates: as a comparison, with hidden states of each."""

    work: ClassVar[str] = "comparing candidates"
    hint: ClassVar[str] = (
        "allow more, try fewer with +gptq, or lower batch_size or sequence_length of calibration or checks.held_out"
    )


@frozen
class Samples:
    """The samples."""

    calibration: Sequence[Batch]
    """None if no candidate and no format needs them."""
    held_out: Sequence[Batch]

    @property
    def all(self) -> list[Batch]:
        """Calibration comes first."""
        return [*self.calibration, *self.held_out]


def compare_candidates(
    source: Path,
    candidates: Sequence[Candidate],
    samples: Samples,
    *,
    number_format: str,
    kv_cache: str = "none",
    exclude: Sequence[str] = (),
    smoothing: str = NONE,
    settings: WalkSettings | None = None,
    cost: Cost | None = None,
    observer: Observer = silence,
) -> Findings:
    """Compare candidates with the original.

    Args:
        source: The folder of an unquantized checkpoint.
        candidates: Each once.
        samples: The samples.
        number_format: One of `format_names.SMOOTHED_FORMATS`.
        kv_cache: `fp8` rounds keys and values.
        exclude: Shell patterns of modules that are not quantized, besides embedding, head and routers.
        smoothing: Which inputs all candidates have smoothed: one of `format_names.SMOOTHINGS`.
        settings: How to work.
        cost: Gets the time of each candidate.
        observer: Gets the progress in layers.

    Raises:
        RecipeInvalidError: A pattern that matches nothing or splits what runtimes fuse.
        CheckpointError: The source cannot be read or is quantized already, or numbers are not finite.
        ModelUnsupportedError: Its layers hand on more than hidden states.
        DependencyMissingError: torch or transformers is missing.
        MemoryBudgetError: The allowed memory is too small.
    """
    how, torch = settings or WalkSettings(), load_torch()
    schemes = {one.name: searching(**one.values)[number_format] for one in candidates}
    plan = Plan.make(source, next(iter(schemes.values())), exclude, kv_cache)
    plans = {name: replace(plan, scheme=scheme) for name, scheme in schemes.items()}
    words = [list(schemes), number_format, kv_cache, list(exclude), smoothing, len(samples.calibration)]
    scratch = Scratch.open(
        how.scratch, f"candidates {words} {fingerprint(plan, samples.all, how.device)}", LayerFindings.restored
    )
    spill = spills_within(*needs_of(plans, samples, how.device, torch), how, torch)
    model = LayeredModel.load(plan, how.device)
    model.hidden, *others = (hidden_states(how.device, spill=spill, folder=how.scratch) for _ in range(len(plans) + 1))
    streams = dict(zip(plans, others, strict=True))
    walk = _Walk(plans, samples, model, streams, how, cost or Cost(), observer, smooths=smoothing != NONE)
    return replace(walk.run(scratch), candidates=candidates)


def needs_of(
    plans: Mapping[str, Plan], samples: Samples, device: str, torch: Torch
) -> tuple[CandidateNeeds, CandidateNeeds]:
    """Calculate from shapes alone: the processor's memory, and the device's.

    GPTQ needs the products of inputs once, and keeps the rounded weights of each candidate that it rounds.

    Args:
        plans: By candidate.
        samples: The samples.
        device: As torch names it.
        torch: The library.
    """
    plan, compensating = next(iter(plans.values())), [each for each in plans.values() if each.scheme.compensates]
    quantized = resources.quantized_bytes(plan)
    codes = quantized[1]
    host, running = comparison_needs(plan, quantized, samples.all, device)
    flowing = resources.needs(plan, samples.held_out, device).between
    once = resources.needs(plan, samples.all, device).between
    products = resources.needs(compensating[0], samples.all, device).products if compensating else 0
    products += codes * max(0, len(compensating) - 1)
    by_pairs = [each for each in plans.values() if each.scheme.weighs_pairs and not each.scheme.compensates]
    products += sum(resources.needs(each, samples.all, device).products for each in by_pairs[:1])
    beside = 0 if resources.is_shared(torch, device) else products  # a GPU has them too
    own = vars(host) | {"products": products}
    of_device = vars(running) | {"between": once + len(plans) * flowing, "products": beside}
    return CandidateNeeds(**own), CandidateNeeds(**of_device)


@dataclass
class _Walk:
    """The original and all candidates, layer by layer."""

    plans: Mapping[str, Plan]
    """By candidate. They differ in their schemes alone."""
    samples: Samples
    model: LayeredModel
    """Its hidden states are those of calibration, and after them the original's."""
    streams: Mapping[str, HiddenStates]
    """Hidden states of each candidate."""
    how: WalkSettings
    cost: Cost
    observer: Observer
    smooths: bool = False
    masks: list[Tensor] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """One of the plans."""
        return next(iter(self.plans.values()))

    @property
    def first(self) -> int:
        """The position of the first held-out batch."""
        return len(self.samples.calibration)

    def run(self, scratch: Scratch[LayerFindings]) -> Findings:
        self._begin(scratch)
        numbers = list(self.plan.layers)
        for position, number in enumerate(numbers[scratch.done :], start=scratch.done + 1):
            scratch.measured.append(self._layer(number))
            if position == len(numbers) or scratch.is_due(self.how.seconds_between_notes):
                with self.cost.phase("note"):
                    scratch.save(chain(self.model.state, *map(self.model.arrays, self.streams.values())))
            self.observer(Progress(position, len(numbers), "layers", f"trying {self.plan.stack}.{number}"))
        with self.cost.phase("head"):
            return replace(self._head(), layers=tuple(scratch.measured))

    def _begin(self, scratch: Scratch[LayerFindings]) -> None:
        """Load the hidden states for the first layer that is not done."""
        model, samples = self.model, self.samples
        with self.cost.phase("load"):
            begin(model, samples.all)
            self.masks = [model.tensor(batch.mask).bool() for batch in samples.held_out]
            if scratch.done:
                state = scratch.hidden()
                model.restore(islice(state, len(samples.all)))
                for stream in self.streams.values():
                    stream.extend(map(model.tensor, islice(state, len(samples.held_out))))
                return
            for stream in self.streams.values():
                stream.extend(model.hidden[position] for position in range(self.first, len(samples.all)))

    def _layer(self, number: int) -> LayerFindings:
        """Calibrate with a layer, run the original through it, and then each candidate."""
        plan, model, prefix = self.plan, self.model, f"{self.plan.stack}.{number}."
        with self.cost.phase("read"):
            tensors = {name: plan.read(name) for unit in plan.layers[number] for name in unit}
        self.cost.read(sum(plan.checkpoint.tensors[name].read_size for name in tensors))
        inside = {name.removeprefix(prefix): array for name, array in tensors.items()}
        moments = InputMoments.of([each.scheme for each in self.plans.values()])
        smoother = Smoother.of(plan, number) if self.smooths else None
        measured = self._calibrate(number, inside, moments, smoother)
        for name, exponents in changes_of(measured.smoothed, smoother.found if smoother else {}).items():
            if name in inside:
                inside[name] = tensors[f"{prefix}{name}"] = scaled(inside[name], exponents)
        importance = {pairs: moments.importance(pairs=pairs) if moments else {} for pairs in (False, True)}
        weights = Weights(tensors, plan.checkpoint.tensors)
        kept = self._rounded(number, weights, measured, moments)
        cache, errors, as_mse = cache_scales(self.plan, number, measured), {}, {}
        for name, each in self.plans.items():
            with self.cost.phase(name):
                known = Known(measured, importance[each.scheme.weighs_pairs], kept.pop(name, {}))
                encoded = encoded_layer(each, number, weights, known)
                served = Served(inside, operands(model.torch, encoded.stored, model.device), cache)
                errors[name] = run_quantized(model, number, served, self.streams[name], self.masks)
                as_mse[name] = encoded.as_mse
        model.forget(number)
        return LayerFindings(number, errors, as_mse)

    def _calibrate(
        self, number: int, inside: Mapping[str, Any], moments: InputMoments | None, smoother: Smoother | None
    ) -> Measured:
        """Run calibration and the original through a layer to the next one."""
        measured = Measured()
        with self.model.resident(number, dict(inside)) as layer:
            if self.first:
                with self.cost.phase("calibrate"):
                    measured = layer.measured(self.first, inside, moments, smoother)
                check_measured(self.plan, number, measured)
            with self.cost.phase("original"), layer.running() as running:
                for position in range(self.first, len(self.samples.all)):
                    running.advance(position)
        return measured

    def _rounded(
        self, number: int, weights: Weights, measured: Measured, moments: InputMoments | None
    ) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what the weights become of each candidate that GPTQ rounds."""
        compensating = {name: each for name, each in self.plans.items() if each.scheme.compensates}
        if moments is None or not compensating:
            return {}
        with self.cost.phase("round"):
            found = rounded(list(compensating.values()), number, weights, measured, moments)
        return dict(zip(compensating, found, strict=True))

    def _head(self) -> Findings:
        """Compare next-token probabilities."""
        torch, held_out = self.model.torch, self.samples.held_out
        number = sum(len(batch.tokens) for batch in held_out)
        tokens, surprise = np.zeros(number, np.int64), np.zeros(number)
        sums = {name: Sums.zero(number) for name in self.plans}
        exact = (self.model.hidden[position] for position in range(self.first, len(self.samples.all)))
        for original, others, some in predictions(self.model, held_out, self.masks, exact, list(self.streams.values())):
            sequences = some.sequences.cpu().numpy()
            tokens += np.bincount(sequences, minlength=number)
            surprise += _by_sequence(_surprise(original, some.following), sequences, number)
            for own, other in zip(sums.values(), others, strict=True):
                agreed = original.argmax(-1).eq(other.argmax(-1)).cpu().numpy()
                own.divergence += _by_sequence(divergence(torch, original, other), sequences, number)
                own.agreed += _by_sequence(agreed, sequences, number)
                own.surprise += _by_sequence(_surprise(other, some.following), sequences, number)
        return _whole(tokens, surprise, sums)


def _surprise(logarithms: Tensor, following: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = -logarithms.gather(-1, following[:, None]).double().cpu().numpy()[:, 0]
    return found


def _by_sequence(values: NDArray[Any], sequences: NDArray[np.int64], number: int) -> NDArray[np.float64]:
    return np.bincount(sequences, weights=values, minlength=number).astype(np.float64)


def _whole(tokens: NDArray[np.int64], surprise: NDArray[np.float64], sums: Mapping[str, Sums]) -> Findings:
    """Leave out sequences of one token.

    Raises:
        CheckpointError: There are no others, or predictions are not numbers.
    """
    has = tokens > 0
    found = [surprise, *(part for one in sums.values() for part in (one.divergence, one.surprise))]
    if not has.any() or not np.isfinite(found).all():
        what = "numbers that are not finite" if has.any() else "no token that another one follows"
        message = f"the held-out text: found {what}; nothing can be compared"
        raise CheckpointError(message)
    kept = {name: Sums(one.divergence[has], one.agreed[has], one.surprise[has]) for name, one in sums.items()}
    return Findings((), tokens[has], surprise[has], kept)
