"""Chooses a format for each group of modules so that the model fits a budget with the least error.

Every group may have one of several formats, each with its bytes and its error. Only those on the lower convex hull
of error over bytes count. Any other costs more, for the same error, than a mixture of its neighbours. All
groups start in their smallest format. Then the step that removes the most error per byte is made, again and again,
until the next one does not fit. The order of steps does not depend on the budget, so a larger budget makes the same
steps and perhaps more, and never has more error. The unused part of a budget is smaller than one step.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from orchestrator.errors import RecipeInvalidError
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BF16 = "bf16"


@frozen
class Option:
    """One format of a group."""

    format: str
    size: int
    """Bytes of all tensors of the group's weights."""
    error: float
    """Error of the layer's output, see `sensitivity`."""


@frozen
class Group:
    """Modules with a common format."""

    modules: tuple[str, ...]
    options: tuple[Option, ...]


@frozen
class Step:
    """A step to a larger format of a group."""

    group: int
    before: Option
    after: Option

    @property
    def size(self) -> int:
        """Bytes that it adds."""
        return self.after.size - self.before.size

    @property
    def gain(self) -> float:
        """Error that it removes, per byte."""
        return (self.before.error - self.after.error) / self.size


@frozen
class Choice:
    """The chosen formats."""

    groups: tuple[Group, ...]
    chosen: tuple[Option, ...]
    """One for each group."""
    curve: tuple[tuple[int, float], ...]
    """Bytes and error after every possible step, whether it fits or not, from the smallest on."""
    weights: int
    """Numbers in all groups together."""

    @property
    def size(self) -> int:
        """Bytes of all groups."""
        return sum(option.size for option in self.chosen)

    @property
    def error(self) -> float:
        """Sum of the groups' errors."""
        return sum(option.error for option in self.chosen)

    @property
    def formats(self) -> Mapping[str, str]:
        """The format of each module."""
        pairs = zip(self.groups, self.chosen, strict=True)
        return {module: option.format for group, option in pairs for module in group.modules}

    def document(self) -> dict[str, Any]:
        """Return the entry for the report."""
        return {
            "bytes": self.size,
            "bits_per_weight": round(self.size * 8 / self.weights, 4),
            "error": float(f"{self.error:.6g}"),
            "groups": [
                {
                    "modules": list(group.modules),
                    "format": option.format,
                    "bytes": option.size,
                    "errors": {other.format: float(f"{other.error:.6g}") for other in group.options},
                }
                for group, option in zip(self.groups, self.chosen, strict=True)
            ],
            "curve": [
                {"bytes": size, "bits_per_weight": round(size * 8 / self.weights, 4), "error": float(f"{error:.6g}")}
                for size, error in self.curve
            ],
        }


def choose(groups: Sequence[Group], limit: int, weights: int) -> Choice:
    """Choose formats.

    Args:
        groups: All groups, with or without a choice.
        limit: Most bytes of all groups together.
        weights: Numbers in all groups together.

    Raises:
        RecipeInvalidError: The smallest formats are too large.
    """
    hulls = [_hull(group.options) for group in groups]
    chosen = [hull[0] for hull in hulls]
    size, error = sum(option.size for option in chosen), sum(option.error for option in chosen)
    if size > limit:
        message = f"quantization.budget: allows {limit} bytes for modules that take {size} in their smallest formats"
        bits = math.ceil(size * 8 / weights * 1000) / 1000
        hint = f"allow at least {size - limit} bytes more, which is {bits} bits per weight, or use a smaller model"
        raise RecipeInvalidError(message, hint=hint)
    curve = [(size, error)]
    open_ended = True
    for step in _steps(hulls):
        size, error = size + step.size, error + step.after.error - step.before.error
        curve.append((size, max(error, 0.0)))
        open_ended = open_ended and size <= limit
        if open_ended:
            chosen[step.group] = step.after
    return Choice(tuple(groups), tuple(chosen), tuple(curve), weights)


def _steps(hulls: Sequence[Sequence[Option]]) -> list[Step]:
    """Order the steps of all groups. Those of one group are in order, because its hull is convex."""
    steps = [Step(number, before, after) for number, hull in enumerate(hulls) for before, after in pairwise(hull)]
    return sorted(steps, key=lambda step: -step.gain)


def _hull(options: Sequence[Option]) -> list[Option]:
    """Return the lower convex hull of error over bytes, from the smallest on."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (option.size, option.error)):
        if hull and option.error >= hull[-1].error:
            continue  # larger and not better
        while len(hull) > 1 and Step(0, hull[-2], hull[-1]).gain <= Step(0, hull[-1], option).gain:
            hull.pop()
        hull.append(option)
    return hull
