"""Reports the difference between a quantized model and its original, and the layers that cause it.

- The Kullback-Leibler divergence of a token: the sum over the vocabulary of `p (ln p - ln q)`, where p and q are what
  the next-token probabilities of the original and the quantized model. In nats; 0 if both are equal.
- Perplexity: `exp` of the mean of `-ln p(next token)`.

Both are means over all tokens of held-out text that have a next one. The divergence compares with the original and
needs much less text than perplexity for the same precision.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError
from orchestrator.quantization.files import read_json
from orchestrator.quantization.limits import NORMAL
from orchestrator.quantization.sensitivity import patterns_of
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.quantization.limits import Limit, Limits

FILE = "evaluation.json"

_NAMED = 5
"""Number of groups in a message."""


@frozen
class GroupError:
    """Modules that are quantized alike, and the error that they alone cause in their layer's output."""

    modules: tuple[str, ...]
    error: float
    """Mean over tokens of the power of the difference over the power of the original."""


@frozen
class LayerError:
    """One layer."""

    layer: int
    error: float
    """Error of the layer's output if everything before it is quantized, too."""
    groups: tuple[GroupError, ...]

    def document(self) -> dict[str, Any]:
        """Return its entry in the file."""
        groups = [{"modules": list(group.modules), "error": _short(group.error)} for group in self.groups]
        return {"layer": self.layer, "error": _short(self.error), "groups": groups}

    @classmethod
    def restored(cls, entry: Mapping[str, Any]) -> LayerError:
        """Read an entry.

        Raises:
            KeyError: Something is missing.
            TypeError: A value has another type.
        """
        groups = (GroupError(tuple(group["modules"]), group["error"]) for group in entry["groups"])
        return cls(entry["layer"], entry["error"], tuple(groups))


@frozen
class Evaluation:
    """The result of comparing both models."""

    tokens: int
    """Number of tokens with a compared next token."""
    kl_divergence: float
    kl_divergence_p99: float
    """The divergence below which 99 of 100 tokens are."""
    agreement: float
    """Share of tokens for which both models predict the same next one."""
    original_perplexity: float
    quantized_perplexity: float
    layers: tuple[LayerError, ...]

    @property
    def perplexity_increase(self) -> float:
        """Relative increase of perplexity; 0.01 is one percent."""
        return self.quantized_perplexity / self.original_perplexity - 1

    def document(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "tokens": self.tokens,
            "kl_divergence": {"mean": _short(self.kl_divergence), "p99": _short(self.kl_divergence_p99)},
            "perplexity": {
                "original": _short(self.original_perplexity),
                "quantized": _short(self.quantized_perplexity),
                "increase": _short(self.perplexity_increase),
            },
            "agreement": _short(self.agreement),
            "layers": [layer.document() for layer in self.layers],
        }

    @classmethod
    def read(cls, file: Path) -> Evaluation:
        """Read the file.

        Raises:
            CheckpointError: It is missing or invalid.
        """
        document = read_json(file)
        try:
            divergence, perplexity = document["kl_divergence"], document["perplexity"]
            layers = tuple(LayerError.restored(layer) for layer in document["layers"])
            return cls(
                document["tokens"],
                divergence["mean"],
                divergence["p99"],
                document["agreement"],
                perplexity["original"],
                perplexity["quantized"],
                layers,
            )
        except (KeyError, TypeError) as error:
            message = f"{file}: expected the result of an evaluation: {error!r}"
            raise CheckpointError(message) from error


@frozen
class Blame:
    """Groups that cause most of a model's error."""

    groups: tuple[GroupError, ...]
    """The worst first."""
    share: float
    """Share of the sum of all groups' errors."""

    @property
    def exclude(self) -> list[str]:
        """Entries for the recipe's `quantization.exclude`."""
        return [pattern for group in self.groups for pattern in patterns_of(group.modules)]

    def words(self) -> str:
        """Describe the groups."""
        named = ", ".join(" and ".join(patterns_of(group.modules)) for group in self.groups[:_NAMED])
        more = f" and {len(self.groups) - _NAMED} more" if len(self.groups) > _NAMED else ""
        return f"{self.share:.0%} of the error comes from {named}{more}"


def blame(evaluation: Evaluation, excess: float) -> Blame:
    """Find the fewest groups that cause at least a part of the error.

    Small errors add up, so without these groups the divergence should shrink by their share of the sum.

    Args:
        evaluation: The result of the comparison.
        excess: The excessive part, from 0 to 1: 1 - allowed / found.
    """
    groups = sorted((group for layer in evaluation.layers for group in layer.groups), key=lambda group: -group.error)
    total = math.fsum(group.error for group in groups) or 1.0
    named: list[GroupError] = []
    share = 0.0
    for group in groups:
        named.append(group)
        share += group.error / total
        if share >= excess:
            break
    return Blame(tuple(named), min(share, 1.0))


@frozen
class Verdict:
    """The result for one limit."""

    name: str
    passed: bool
    detail: str
    warning: bool = False
    """Whether it passed, but is worse than normal for the format."""
    blame: Blame | None = None
    """The causes, if it failed or is a warning."""


def judge(evaluation: Evaluation, limits: Limits) -> list[Verdict]:
    """Compare the results with the limits."""
    divergence, increase = evaluation.kl_divergence, evaluation.perplexity_increase
    perplexity = f"{evaluation.original_perplexity:.4g} before, {evaluation.quantized_perplexity:.4g} after"
    judges = _Judge(evaluation, limits.format)
    return [
        judges.verdict(
            "kl_divergence",
            divergence,
            limits.kl_divergence,
            f"{divergence:.3g} nats a token over {evaluation.tokens} tokens",
        ),
        judges.verdict("perplexity", increase, limits.perplexity_increase, f"{increase:+.2%} ({perplexity})"),
    ]


@frozen
class _Judge:
    evaluation: Evaluation
    format: str
    """The format whose normal figures are the limits."""

    def verdict(self, name: str, found: float, limit: Limit | None, words: str) -> Verdict:
        """Compare one figure with its limit."""
        if limit is None:
            return Verdict(name, passed=True, detail=words)
        most, normal = (None if one is None else _amount(name, one) for one in (limit.most, limit.normal_up_to))
        if found > limit.most:
            reason = f" for {self.format}, of which up to {normal} is normal" if normal else ""
            detail = f"found {words}, at most {most} is allowed{reason}"
            return self._blamed(Verdict(name, passed=False, detail=detail), 1 - limit.most / found)
        if limit.normal_up_to is None:
            return Verdict(name, passed=True, detail=f"{words}, at most {most} is allowed")
        if found <= limit.normal_up_to:
            return Verdict(name, passed=True, detail=f"{words}, up to {normal} is normal for {self.format}")
        detail = f"{words}, which is worse than normal for {self.format}: up to {normal}; more than {most} fails"
        return self._blamed(Verdict(name, passed=True, detail=detail, warning=True), 1 - limit.normal_up_to / found)

    def _blamed(self, verdict: Verdict, excess: float) -> Verdict:
        guilty = blame(self.evaluation, excess)
        words = f"; {guilty.words()}" if guilty.groups else ""
        return replace(verdict, detail=f"{verdict.detail}{words}", blame=guilty)


def _amount(name: str, figure: float) -> str:
    return f"{figure:.3g} nats" if name == "kl_divergence" else f"{figure:+.2%}"


def advice(verdicts: Sequence[Verdict], other_ways: Sequence[str] = ()) -> str:
    """Return the changes to a recipe that would meet the limits that failed or warned; nothing if there are none.

    Args:
        verdicts: The results.
        other_ways: What can be done besides leaving modules in BF16, see `limits.other_ways`.
    """
    blamed = [one.blame for one in verdicts if one.blame]
    exclude = list(dict.fromkeys(pattern for one in blamed for pattern in one.exclude))
    ways = list(other_ways) if blamed else []
    if exclude:
        ways.append(f"leave them in BF16, in the recipe: quantization: {{exclude: [{', '.join(exclude)}]}}")
    return "; or ".join(ways)


def meaning(evaluation: Evaluation, limits: Limits) -> str:
    """Say what the figures mean beside those of other formats."""
    found = (
        f"The most likely next token is the original's for {evaluation.agreement:.0%} of the tokens."
        f" The original, in BF16, has a divergence of 0;"
        f" in FP8 {_normal('fp8')} are normal, in NVFP4 {_normal('nvfp4')}."
    )
    if limits.normal is None:
        return found
    times = evaluation.kl_divergence / limits.normal.kl_divergence
    return f"{found} This model's divergence is {times:.2g} times what is normal for {limits.format}."


def _normal(number_format: str) -> str:
    figures = NORMAL[number_format]
    return f"{figures.kl_divergence:g} nats and a perplexity {figures.perplexity_increase:+.0%}"


def as_document(evaluation: Evaluation, limits: Limits, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Convert everything for quality.json."""
    return {
        **evaluation.document(),
        "gates": limits.document,
        "meaning": meaning(evaluation, limits),
        "blame": [
            {"gate": one.name, "share": _short(one.blame.share), "exclude": one.blame.exclude}
            for one in verdicts
            if one.blame
        ],
    }


def _short(number: float) -> float:
    """Keep six digits, because the others differ between processors."""
    return float(f"{number:.6g}")
