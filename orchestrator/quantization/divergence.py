"""Compare what a quantized model says with what the original says, in one walk over the layers of both.

One layer of each is in memory at a time, with what flows through both models between two layers; the head works on some
tokens at a time. So it works for a model of any size. The quantized model computes as an engine would, see `served`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress, silence
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.evaluation import Evaluation, GroupError, LayerError
from orchestrator.quantization.model import LayeredModel
from orchestrator.quantization.plan import Plan
from orchestrator.quantization.schemes import SCHEMES
from orchestrator.quantization.sensitivity import Drift, Probe, groups_of, probes
from orchestrator.quantization.served import Arithmetic, operands, stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.samples import Batch
    from orchestrator.quantization.served import Operand, Stored

_LOGITS_BYTES = 64_000_000
"""Of one model's logits at once; comparing takes about eight times as much."""


def evaluate(
    reference: Path, checkpoint: Path, batches: Sequence[Batch], *, device: str = "cpu", observer: Observer = silence
) -> Evaluation:
    """Compare a quantized model with the one that it was made from.

    Args:
        reference: The folder of the original.
        checkpoint: The folder of the quantized one.
        batches: Text that did not calibrate it.
        device: As torch names it.
        observer: Is told of progress in layers.

    Raises:
        CheckpointError: A checkpoint cannot be read, the two do not belong together, or what they say is no number.
        DependencyMissingError: There is no torch or no transformers.
    """
    plan = Plan.make(reference, SCHEMES["fp8"])  # what it would do with weights is not asked; it puts up with any shape
    quantized = _Quantized.open(checkpoint, plan)
    return _Walk(plan, quantized, batches, LayeredModel.load(reference, device), observer).run()


@dataclass(frozen=True)
class _Quantized:
    """The quantized checkpoint; what it does not quantize is the original's."""

    checkpoint: Checkpoint
    stack: str
    """What stands before the number of a layer in a name."""
    modules: Mapping[int, tuple[str, ...]]
    """The quantized modules of each layer."""

    @classmethod
    def open(cls, folder: Path, original: Plan) -> _Quantized:
        checkpoint = Checkpoint.open(folder)
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
        return cls(checkpoint, original.stack, {number: tuple(modules) for number, modules in found.items()})

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


@dataclass
class _Walk:
    """Both models, layer by layer."""

    plan: Plan
    quantized: _Quantized
    batches: Sequence[Batch]
    model: LayeredModel
    observer: Observer
    hidden: list[Any] = field(default_factory=list)
    """What goes into the next layer of the quantized model; the model has the original's."""
    masks: list[Any] = field(default_factory=list)

    def run(self) -> Evaluation:
        self.model.begin(self.plan.read(self.plan.embedding), self.batches)
        self.hidden = list(self.model.hidden)
        self.masks = [self.model.tensor(batch.mask).bool() for batch in self.batches]
        numbers = list(self.plan.layers)
        layers = []
        for position, number in enumerate(numbers, start=1):
            layers.append(self._layer(number))
            self.observer(Progress(position, len(numbers), "layers", f"comparing {self.plan.stack}.{number}"))
        return self._head(tuple(layers))

    def _layer(self, number: int) -> LayerError:
        model, prefix = self.model, f"{self.plan.stack}.{number}."
        tensors = {n.removeprefix(prefix): self.plan.read(n) for unit in self.plan.layers[number] for n in unit}
        probe = self._run_original(number, tensors)
        served = operands(model.torch, self.quantized.layer(number), model.device)
        cache = self.quantized.cache_scales(number)
        instead = Arithmetic(model.torch, served, cache).instead
        drift = Drift(model.torch)
        with model.resident(number, _mixed(tensors, served)) as layer, layer.running(instead=instead) as forward:
            for position, hidden in enumerate(self.hidden):
                self.hidden[position] = forward(position, hidden)
                drift.add(model.hidden[position], self.hidden[position], self.masks[position])
        groups = tuple(self._group(number, tensors, served, probe, group) for group in groups_of(served))
        model.forget(number)
        return LayerError(number, drift.mean, groups)

    def _run_original(self, number: int, tensors: dict[str, NDArray[Any]]) -> Probe:
        """Run the original's layer, and keep some batches of what went in."""
        model, count = self.model, probes(self.batches)
        before = model.hidden[:count]
        with model.resident(number, tensors) as layer, layer.running() as forward:
            for position, hidden in enumerate(model.hidden):
                model.hidden[position] = forward(position, hidden)
        return Probe(model.torch, before, model.hidden[:count], self.masks[:count])

    def _group(
        self,
        number: int,
        tensors: Mapping[str, NDArray[Any]],
        served: Mapping[str, Operand],
        probe: Probe,
        group: Sequence[str],
    ) -> GroupError:
        """Measure what a group of modules alone does to its layer's output."""
        alone = {module: served[module] for module in group}
        instead = Arithmetic(self.model.torch, alone).instead
        with (
            self.model.resident(number, _mixed(tensors, alone)) as layer,
            layer.running(instead=instead) as forward,
        ):
            return GroupError(tuple(f"{self.plan.stack}.{number}.{module}" for module in group), probe.error(forward))

    def _head(self, layers: tuple[LayerError, ...]) -> Evaluation:
        """Compare what both models expect next, some tokens at a time."""
        torch = self.model.torch
        tensors = {name: self.plan.read(name) for name in self.plan.ends}
        step = max(1, _LOGITS_BYTES // (4 * len(tensors[self.plan.embedding])))
        found = _Totals()
        with self.model.head(tensors) as logits:
            for batch, mask, exact, other in zip(self.batches, self.masks, self.model.hidden, self.hidden, strict=True):
                followed = mask[:, :-1] & mask[:, 1:]
                following = self.model.tensor(batch.tokens)[:, 1:][followed]
                rows = [hidden[:, :-1][followed] for hidden in (exact, other)]
                for first in range(0, len(following), step):
                    some = slice(first, first + step)
                    expected = [torch.log_softmax(logits(part[some][None])[0].float(), -1) for part in rows]
                    found.add(torch, expected[0], expected[1], following[some])
        return found.evaluation(layers)


def _mixed(tensors: Mapping[str, NDArray[Any]], served: Mapping[str, Operand]) -> dict[str, Any]:
    """Return a layer's weights with some of them as an engine multiplies them."""
    return {**tensors, **{f"{module}.weight": operand.weight for module, operand in served.items()}}


@dataclass
class _Totals:
    """Sums over tokens."""

    divergences: list[NDArray[np.float64]] = field(default_factory=list)
    agreed: int = 0
    surprise: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Of the original and of the quantized model: sums of -ln p(next token)."""

    def add(self, torch: Any, original: Any, quantized: Any, following: Any) -> None:  # noqa: ANN401 - of torch
        """Add tokens: what both expect, as logarithms of shape [tokens, vocabulary], and what follows."""
        terms = original.exp() * (original - quantized)
        divergence = torch.where(original > -torch.inf, terms, 0.0).double().sum(-1)  # p ln p is 0 where p is
        self.divergences.append(divergence.clamp(min=0).cpu().numpy())
        self.agreed += int((original.argmax(-1) == quantized.argmax(-1)).sum())
        for number, logarithms in enumerate((original, quantized)):
            self.surprise[number] -= float(logarithms.gather(-1, following[:, None]).double().sum())

    def evaluation(self, layers: tuple[LayerError, ...]) -> Evaluation:
        """Divide by the number of tokens.

        Raises:
            CheckpointError: There were none, or what a model says is no number.
        """
        every = np.concatenate([np.zeros(0), *self.divergences])
        if not len(every) or not np.isfinite([*every, *self.surprise]).all():
            found = "numbers that are not finite" if len(every) else "no token that another one follows"
            message = f"the held-out text: found {found}; nothing can be compared"
            raise CheckpointError(message)
        original, quantized = (float(np.exp(total / len(every))) for total in self.surprise)
        p99 = float(np.quantile(every, 0.99))
        return Evaluation(len(every), float(every.mean()), p99, self.agreed / len(every), original, quantized, layers)
