"""Compares the predictions of a quantized model and its original, in one pass over the layers of both.

One layer of each is in memory at a time. The hidden states of both models are in memory or in a
file. The head works on some tokens at a time. So it works for a model of any size. After a kill, the pass continues
at the last saved layer. The quantized model computes like a runtime, see `linear_override`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.events import Progress, silence
from orchestrator.quantization.activations import hidden_states
from orchestrator.quantization.comparing import LOGITS_BYTES, spills
from orchestrator.quantization.evaluation import Evaluation, GroupError, LayerError
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.linear_override import operands
from orchestrator.quantization.model import LayeredModel
from orchestrator.quantization.plan import Plan
from orchestrator.quantization.quantized import Quantized
from orchestrator.quantization.samples import picked, used_tokens
from orchestrator.quantization.schemes import SCHEMES
from orchestrator.quantization.scratch import Scratch, fingerprint
from orchestrator.quantization.sensitivity import Drift, Probe, groups_of, probes
from orchestrator.quantization.served import Served
from orchestrator.quantization.smoothing import scaled
from orchestrator.quantization.structure import is_head
from orchestrator.quantization.walk import WalkSettings
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.linear_override import Operand
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.torch_types import HiddenStates, Tensor, Torch

_CHUNK_BYTES = 4_000_000
"""Rows of the embedding at a time."""


def evaluate(
    reference: Path,
    checkpoint: Path,
    batches: Sequence[Batch],
    *,
    settings: WalkSettings | None = None,
    observer: Observer = silence,
) -> Evaluation:
    """Compare a quantized model with its original.

    Args:
        reference: The folder of the original.
        checkpoint: The folder of the quantized one.
        batches: Text that was not used for calibration.
        settings: How to work.
        observer: Gets the progress in layers.

    Raises:
        CheckpointError: A checkpoint cannot be read, the two do not belong together, or predictions are not numbers.
        DependencyMissingError: torch or transformers is missing.
        MemoryBudgetError: The allowed memory is too small.
    """
    how = settings or WalkSettings()
    plan = Plan.make(reference, SCHEMES["fp8"])  # the scheme for weights is not used; this one accepts any shape
    quantized = Quantized.open(checkpoint, plan)
    work = fingerprint(plan, batches, how.device, quantized.checkpoint)
    scratch = Scratch.open(how.scratch, work, LayerError.restored)
    torch = load_torch()
    spill = spills(plan, quantized, batches, how, torch)
    model = LayeredModel.load(plan, how.device)
    model.hidden = hidden_states(how.device, spill=spill, folder=how.scratch)
    hidden = hidden_states(how.device, spill=spill, folder=how.scratch)
    return _Walk(plan, quantized, batches, model, hidden, how, observer).run(scratch)


@dataclass
class _Walk:
    """Both models, layer by layer."""

    plan: Plan
    quantized: Quantized
    batches: Sequence[Batch]
    model: LayeredModel
    hidden: HiddenStates
    """Hidden states of the quantized model. The model has the original's."""
    how: WalkSettings
    observer: Observer
    masks: list[Tensor] = field(default_factory=list)

    def run(self, scratch: Scratch[LayerError]) -> Evaluation:
        self._begin(scratch)
        numbers = list(self.plan.layers)
        for position, number in enumerate(numbers[scratch.done :], start=scratch.done + 1):
            scratch.measured.append(self._layer(number))
            due = position == len(numbers) or scratch.is_due(self.how.seconds_between_notes)
            if due and self.model.can_restore:
                scratch.save(chain(self.model.state, self.model.arrays(self.hidden)))
            self.observer(Progress(position, len(numbers), "layers", f"comparing {self.plan.stack}.{number}"))
        return self._head(tuple(scratch.measured))

    def _begin(self, scratch: Scratch[LayerError]) -> None:
        """Load the hidden states for the first layer that was not compared yet."""
        model = self.model
        _begin(model, self.batches, twice=True)
        self.masks = [model.tensor(batch.mask).bool() for batch in self.batches]
        if scratch.done:
            state = scratch.hidden()
            model.restore(islice(state, len(self.batches)))
            self.hidden.extend(map(model.tensor, state))
        elif model.can_restore:
            self.hidden.extend(model.hidden)

    def _layer(self, number: int) -> LayerError:
        model, prefix = self.model, f"{self.plan.stack}.{number}."
        tensors = {n.removeprefix(prefix): self.plan.read(n) for unit in self.plan.layers[number] for n in unit}
        with model.resident(number, tensors) as layer, layer.running() as running:
            probe = Probe.running(model, running, self.masks[: probes(self.batches)], len(self.batches))
        for name, tensor in tensors.items():
            if (exponents := self.quantized.smoothed.get(f"{prefix}{name}")) is not None:
                tensors[name] = scaled(tensor, exponents)  # which changes none of the layer's results
        served = operands(model.torch, self.quantized.layer(number), model.device)
        cache = self.quantized.cache_scales(number)
        layer_served = Served(tensors, served, cache)
        if model.can_restore:
            error = run_quantized(model, number, layer_served, self.hidden, self.masks)
        else:
            error = _advance_quantized(model, number, layer_served, self.masks)
        groups = tuple(self._group(number, tensors, served, probe, group) for group in groups_of(served))
        model.forget(number)
        return LayerError(number, error, groups)

    def _group(
        self,
        number: int,
        tensors: Mapping[str, NDArray[Any]],
        served: Mapping[str, Operand],
        probe: Probe,
        group: Sequence[str],
    ) -> GroupError:
        """Measure the error of a layer's output from one group of modules alone."""
        alone = {module: served[module] for module in group}
        with Served(tensors, alone).running(self.model, number) as forward:
            return GroupError(tuple(f"{self.plan.stack}.{number}.{module}" for module in group), probe.error(forward))

    def _head(self, layers: tuple[LayerError, ...]) -> Evaluation:
        """Compare the next-token probabilities of both models, some tokens at a time."""
        found, hidden, count = _Totals(), self.model.hidden, len(self.batches)
        original = (hidden[position] for position in range(count))
        own = (hidden[position] for position in range(count, 2 * count))
        others = self.hidden if self.model.can_restore else own
        for exact, quantized, tokens in predictions(self.model, self.batches, self.masks, original, [others]):
            found.add(self.model.torch, exact, next(quantized), tokens.following)
        return found.evaluation(layers)


def begin(model: LayeredModel, batches: Sequence[Batch]) -> None:
    """Prepare the hidden states of the first layer.

    Raises:
        ModelUnsupportedError: Layers hand on more than these.
    """
    _begin(model, batches, twice=False)
    if not model.can_restore:
        message = (
            f"{type(model.model).__name__}: its layers hand on more than hidden states; comparing several ways needs"
            " these alone"
        )
        raise ModelUnsupportedError(message, hint="Build the recipe for each way and compare with checks.held_out.")


def _begin(model: LayeredModel, batches: Sequence[Batch], *, twice: bool) -> None:
    plan, used = model.plan, used_tokens(batches)
    embedding = picked(plan.rows(plan.embedding, _CHUNK_BYTES), used, plan.spec(plan.embedding))
    model.begin(embedding, batches, used, twice=twice)


def run_quantized(
    model: LayeredModel,
    number: int,
    served: Served,
    hidden: HiddenStates,
    masks: Sequence[Tensor],
) -> float:
    """Run hidden states through a quantized layer to the next one, and return the relative error of its output.

    Args:
        model: The model, whose original has run through the layer. Its last batches are those of `hidden`.
        number: The layer.
        served: The layer.
        hidden: The quantized model's hidden states.
        masks: For each of its batches, whether there is a token.
    """
    drift, first = Drift(), len(model.hidden) - len(hidden)
    with served.running(model, number) as forward:
        for position, before in enumerate(hidden):
            after = forward(first + position, before)
            drift.add(model.hidden[first + position], after, masks[position])
            hidden[position] = after
    return drift.mean


def _advance_quantized(model: LayeredModel, number: int, served: Served, masks: Sequence[Tensor]) -> float:
    """Do the same with the quantized model's own forwards, which are the second half of the model's batches."""
    drift = Drift()
    with served.running(model, number) as forward:
        for position, mask in enumerate(masks):
            forward.advance(len(masks) + position)
            drift.add(model.hidden[position], model.hidden[len(masks) + position], mask)
    return drift.mean


@frozen
class Compared:
    """Tokens whose next-token probabilities are compared."""

    following: Tensor
    """The next tokens, of shape [tokens]."""
    sequences: Tensor
    """The sequence of each, counted over all batches, of shape [tokens]."""


def predictions(
    model: LayeredModel,
    batches: Sequence[Batch],
    masks: Sequence[Tensor],
    exact: Iterable[Tensor],
    others: Sequence[Iterable[Tensor]],
) -> Iterator[tuple[Tensor, Iterator[Tensor], Compared]]:
    """Yield log probabilities of next tokens, of shape [tokens, vocabulary], some tokens at a time.

    Args:
        model: The model, after its last layer.
        batches: The batches.
        masks: For each batch, whether there is a token.
        exact: The original's hidden states after the last layer, for each batch.
        others: Those of each quantized model, whose log probabilities are calculated when they are taken.
    """
    torch, plan, before = model.torch, model.plan, 0
    tied = not any(is_head(name) for name in plan.ends)
    tensors = {name: plan.read(name) for name in plan.ends if tied or name != plan.embedding}
    step = max(1, LOGITS_BYTES // (4 * plan.checkpoint.tensors[plan.embedding].shape[0]))
    with model.head(tensors) as logits:
        for batch, mask, *states in zip(batches, masks, exact, *others, strict=True):
            followed = mask[:, :-1] & mask[:, 1:]
            following = model.tensor(batch.tokens)[:, 1:][followed]
            sequences, before = followed.nonzero()[:, 0] + before, before + len(batch.tokens)
            rows = [hidden[:, :-1][followed] for hidden in states]
            for first in range(0, len(following), step):
                some = slice(first, first + step)
                found = (torch.log_softmax(logits(part[some][None])[0].float(), -1) for part in rows)
                yield next(found), found, Compared(following[some], sequences[some])


def divergence(torch: Torch, original: Tensor, quantized: Tensor) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of each token, from log probabilities of shape [tokens, vocabulary]."""
    terms = original.exp() * (original - quantized)
    found = torch.where(original > -torch.inf, terms, 0.0).double().sum(-1)  # p ln p is 0 where p is
    return found.clamp(min=0).cpu().numpy()


@dataclass
class _Totals:
    """Sums over tokens."""

    divergences: list[NDArray[np.float64]] = field(default_factory=list)
    agreed: int = 0
    surprise: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Sums of -ln p(next token), of the original and of the quantized model."""

    def add(self, torch: Torch, original: Tensor, quantized: Tensor, following: Tensor) -> None:
        """Add tokens: log probabilities of both models of shape [tokens, vocabulary], and the next tokens."""
        self.divergences.append(divergence(torch, original, quantized))
        self.agreed += int(original.argmax(-1).eq(quantized.argmax(-1)).sum())
        for number, logarithms in enumerate((original, quantized)):
            self.surprise[number] -= float(logarithms.gather(-1, following[:, None]).double().sum())

    def evaluation(self, layers: tuple[LayerError, ...]) -> Evaluation:
        """Divide by the number of tokens.

        Raises:
            CheckpointError: There are no tokens, or predictions are not numbers.
        """
        every = np.concatenate([np.zeros(0), *self.divergences])
        if not len(every) or not np.isfinite([*every, *self.surprise]).all():
            found = "numbers that are not finite" if len(every) else "no token that another one follows"
            message = f"the held-out text: found {found}; nothing can be compared"
            raise CheckpointError(message)
        original, quantized = (float(np.exp(total / len(every))) for total in self.surprise)
        p99 = float(np.quantile(every, 0.99))
        return Evaluation(len(every), float(every.mean()), p99, self.agreed / len(every), original, quantized, layers)
