"""Ranks recipes for a purpose, and says why the others lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from orchestrator.catalog.scores import Score, score_of
from orchestrator.planner.figures import seconds_in_words
from orchestrator.planner.queueing import Queue, Targets
from orchestrator.planner.summary import Summary
from orchestrator.quantization.limits import NORMAL
from orchestrator.recipe.model import Recipe, Workload
from orchestrator.values import frozen


@frozen
class Purpose:
    """What a model is for: the usual lengths, and the times that people accept."""

    input_tokens: int
    output_tokens: int
    targets: Targets
    made_for: tuple[str, ...] = ()
    """Parts of the names of models that are made for it."""


_READING = 0.1
"""Seconds per token. People read about 4 words a second (Brysbaert, 2019), which are 5 or 6 tokens: half the speed."""

PURPOSES: Mapping[str, Purpose] = MappingProxyType(
    {
        "chat": Purpose(1024, 256, Targets(2.0, _READING)),
        "coding": Purpose(4096, 512, Targets(5.0, _READING), ("coder", "code")),
        "agents": Purpose(16384, 256, Targets(15.0, _READING)),
        "documents": Purpose(8192, 512, Targets(10.0, _READING)),
    }
)
"""Lengths and times are our choice. Options of `recommend` replace them."""

_LOSS: Mapping[str, float] = MappingProxyType({name: normal.kl_divergence for name, normal in NORMAL.items()})


@frozen
class Candidate:
    """A recipe with the users that it is asked for."""

    recipe: Recipe
    summary: Summary
    queue: Queue | None
    """What its users see; None if it is refused, or if its sizes are not known."""
    most: int
    """Requests that it takes at once."""
    within: int
    """How many users it answers in time."""

    @property
    def quality(self) -> str:
        """What is known of its quality: published, else the divergence from BF16 that is normal for its format."""
        score = self.score
        if score is not None:
            return score.score
        name = self.recipe.quantization.format
        if name == "bf16":
            return "the original"
        return f"{_LOSS[name]:g} nats or less" if name in _LOSS else "not known"

    @property
    def score(self) -> Score | None:
        """Its published score."""
        return score_of(getattr(self.recipe.model, "repo", ""), self.recipe.quantization.format)


@frozen
class Recommendation:
    """The recipes that do what is asked, the best first, and the others by the reason."""

    workload: Workload
    targets: Targets
    ranked: tuple[Candidate, ...]
    lost: Mapping[str, tuple[str, ...]]


def recommend(
    candidates: Iterable[Candidate], purpose: Purpose, workload: Workload, targets: Targets
) -> Recommendation:
    """Rank recipes.

    Of those that fit and answer in time, models that are made for the purpose come first. Then more parameters are
    better, as a rule: no source scores all of them. Of one model, the recipe that loses least comes first, then the
    fastest; the others of that model have lost.

    Args:
        candidates: The recipes, with the workload.
        purpose: What they are for.
        workload: What users send.
        targets: The times that they accept.
    """
    ranked: list[Candidate] = []
    lost: dict[str, list[str]] = {}
    for candidate in sorted(candidates, key=lambda one: _order(one, purpose)):
        why = _why_not(candidate, targets) or _better_of_its_model(candidate, ranked)
        if why:
            lost.setdefault(why, []).append(_with_figure(candidate, why))
        else:
            ranked.append(candidate)
    return Recommendation(workload, targets, tuple(ranked), {why: tuple(names) for why, names in lost.items()})


_REFUSED, _FEW = "refused", "takes fewer requests at once"
_LATE, _SLOW = "the first token comes too late", "too slow per token"


def _order(candidate: Candidate, purpose: Purpose) -> tuple[bool, float, float, float]:
    recipe, queue = candidate.recipe, candidate.queue
    named = f"{recipe.name} {getattr(recipe.model, 'repo', '')}".lower()
    loss = _LOSS.get(recipe.quantization.format, 0.0 if recipe.quantization.format == "bf16" else max(_LOSS.values()))
    return (
        not any(part in named for part in purpose.made_for),
        -_size(recipe),
        loss,
        -(queue.tokens_per_second if queue else 0.0),
    )


def _size(recipe: Recipe) -> float:
    return float(f"{recipe.model.parameters:.2g}")


def _why_not(candidate: Candidate, targets: Targets) -> str:
    queue = candidate.queue
    if not candidate.summary.fits:
        return "does not fit" if "DOES_NOT_FIT" in candidate.summary.refused else _REFUSED
    if queue is None:
        return "its sizes are not known"
    if queue.users > candidate.most:
        return _FEW
    if targets.first_token is not None and queue.first_token.p95 > targets.first_token:
        return _LATE
    return "" if queue.meets(targets) else _SLOW


def _better_of_its_model(candidate: Candidate, ranked: Sequence[Candidate]) -> str:
    """Return the reason if a recipe of the same model is ahead."""
    recipe = candidate.recipe
    alike = (
        _size(one.recipe) == _size(recipe) and one.recipe.model.architecture == recipe.model.architecture
        for one in ranked
    )
    return "a recipe of the same model loses less, or is faster" if any(alike) else ""


def _with_figure(candidate: Candidate, why: str) -> str:
    queue, name = candidate.queue, candidate.recipe.name
    figures = {_REFUSED: ", ".join(candidate.summary.refused), _FEW: str(candidate.most)}
    if queue is not None:
        figures |= {
            _LATE: seconds_in_words(queue.first_token.p95),
            _SLOW: seconds_in_words(queue.per_token.p95),
        }
    return f"{name} ({figures[why]})" if why in figures else name
