"""Names candidates: ways to encode NVFP4 that are compared on a model.

A candidate is a search for the scales of blocks, and what is done besides: `weighted+gptq`. A server takes the same
bytes and the same time for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.quantization.format_names import (
    FOUR_OVER_SIX,
    GPTQ,
    HEADROOM,
    LOCAL_HESSIAN,
    MAX,
    MSE,
    NEAREST,
    SCALE_SEARCHES,
    WEIGHTED,
)
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.recipe.model import Recipe

_BESIDES: Mapping[str, tuple[str, str, str]] = {
    GPTQ: ("rounding", GPTQ, NEAREST),
    HEADROOM: ("input_scales", HEADROOM, MAX),
}
"""What is done besides a search, by its name: the field of a recipe's `quantization`, its value, and the value
without."""
_QUICKEST_FIRST = (MAX, FOUR_OVER_SIX, MSE, WEIGHTED, LOCAL_HESSIAN)
"""Searches by the time that they take. What is done besides takes longer than any."""


@frozen
class Candidate:
    """One way to encode NVFP4."""

    search: str
    """One of `format_names.SCALE_SEARCHES`."""
    besides: frozenset[str] = frozenset()
    """What is done besides."""

    @property
    def name(self) -> str:
        """Its name, in one order."""
        return "+".join((self.search, *(part for part in _BESIDES if part in self.besides)))

    @property
    def values(self) -> dict[str, str]:
        """The fields of a recipe's `quantization` that choose it, and the arguments of `schemes.searching`."""
        others = {key: value if part in self.besides else without for part, (key, value, without) in _BESIDES.items()}
        return {"scale_search": self.search, **others}

    @property
    def effort(self) -> tuple[bool, int, int]:
        """What it costs to quantize, to compare with others: headroom costs next to nothing."""
        return GPTQ in self.besides, _QUICKEST_FIRST.index(self.search), len(self.besides)


def compared(recipe: Recipe) -> tuple[Candidate, ...]:
    """Return a recipe's own way and those that `checks.compare` names; none if it names none."""
    chosen = recipe.quantization
    besides = frozenset(part for part, (key, value, _) in _BESIDES.items() if getattr(chosen, key) == value)
    others = map(Candidate, recipe.checks.compare)
    return tuple(dict.fromkeys((Candidate(chosen.scale_search, besides), *others))) if recipe.checks.compare else ()


def parse(text: str) -> tuple[Candidate, ...]:
    """Read names with commas between them. One that is named twice counts once.

    Raises:
        ValueError: Names all that are unknown, and those that exist.
    """
    words = [word.strip() for word in text.split(",")]
    unknown = [word for word in words if not _is_known(word)]
    if unknown:
        parts = " and ".join(f"+{part}" for part in _BESIDES)
        known = f"{', '.join(SCALE_SEARCHES)}, each with or without {parts}"
        message = f"unknown: {', '.join(map(repr, unknown))}; expected {known}"
        raise ValueError(message)
    split = (word.split("+") for word in words)
    return tuple(dict.fromkeys(Candidate(search, frozenset(besides)) for search, *besides in split))


def _is_known(word: str) -> bool:
    search, *besides = word.split("+")
    return search in SCALE_SEARCHES and set(besides) <= _BESIDES.keys() and len(set(besides)) == len(besides)


def most_demanding(candidates: Sequence[Candidate]) -> Candidate:
    """Return a candidate that needs all that one of them needs: calibration, memory, text."""
    besides = frozenset().union(*(candidate.besides for candidate in candidates))
    return Candidate(max(candidates, key=lambda one: one.effort[1]).search, besides)
