"""Searches a server's options for the fastest with few noisy runs, of which some crash.

The plan's prediction starts the search, and runs correct it. The logarithm of the speed is modelled as a Gaussian
process (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 2) with four parts: a factor of
the plan's prediction, which may turn out to be 0; an effect of each option alone; an interaction of all; and the noise
of a run. So every run tells something about each option. Values without an order are tried alone first. Then the next
run changes one option of the best so far, or gives memory from one option to another: the change with the largest
expected improvement (Jones et al., 1998) times the chance that it does not crash, which a logistic model of all runs
gives. If none helps, several options change. The best is the run with the highest mean of the model, not the luckiest.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.values import frozen

Point = tuple[int, ...]
"""The index of a value on each axis."""
Crash = Literal["out of memory", "refused option", "hang", "died"]
Floats = NDArray[np.float64]

NOISE = 0.03
"""Relative standard deviation of a run."""
_EFFECT, _INTERACTION = 0.2, 0.12
"""Standard deviations of the logarithm of the speed: of one option's effect, and of what options do together."""
_LEVEL = 0.5
"""The same of the speed of all points."""
_TRUST = 0.5
"""The factor of the plan's prediction before any run, and its standard deviation."""
_REACH = 0.6
"""How far values of an ordered axis resemble each other, as a share of the axis."""
_OTHER = 0.6
"""How much values of an axis without order resemble each other."""
_USUAL_RISK, _MEMORY_RISK, _RISK_SPREAD = -3.0, 4.0, 4.0
"""Log odds of a crash of the recipe as it is, their growth over a whole axis of memory, and the spread of all."""
_CAUTION = 2
"""A run that crashes teaches less than one that is slow."""
_ROUNDS = 60
_ALONE = 4
"""Runs for values without order alone."""
_ENOUGH = 0.005
"""The search ends when no run is expected to bring this share more."""


@frozen
class Axis:
    """One option and the values to try."""

    name: str
    """A key path of the recipe."""
    values: tuple[object, ...]
    """Sorted, if they have an order."""
    ordered: bool = True
    memory: int = 0
    """1 or -1: larger values take more or less memory; 0: no such order."""


@frozen
class Tried:
    """One run: its speed, or how it crashed."""

    point: Point
    speed: float | None
    """Tokens per second; None: it crashed."""
    crash: Crash | None = None


@frozen
class Search:
    """A search with all runs so far. The same runs lead to the same next one, so it continues from a list."""

    axes: tuple[Axis, ...]
    predicted: Mapping[Point, float]
    """The plan's speed of every point that is not refused, above 0."""
    start: Point
    """The recipe as it is."""
    tried: tuple[Tried, ...] = field(default=())

    def next(self) -> Point | None:
        """Return the next point to run; None if no run is likely to bring more."""
        if all(one.point != self.start for one in self.tried):
            return self.start
        points = self._open
        if not points or not self._good:
            likely = dict(zip(points, self._survives(points), strict=True))
            return max(points, key=lambda point: self.predicted[point] * likely[point], default=None)
        alone = next((point for point in self._kernels if point in points), None)
        if alone is not None and len(self.tried) <= _ALONE:
            return alone
        return self._gainful(self._near(points)) or self._gainful(points)

    def _gainful(self, points: Sequence[Point]) -> Point | None:
        """Return the point with the largest expected gain; None if no gain is worth a run."""
        if not points:
            return None
        mean, deviation = self._posterior(points)
        best = float(np.max(self._posterior([one.point for one in self._good])[0]))
        gains = _improvement(mean - best, deviation) * self._survives(points) ** _CAUTION
        chosen = int(np.argmax(gains))
        return points[chosen] if gains[chosen] > _ENOUGH else None

    @property
    def best(self) -> Tried | None:
        """The run with the highest mean of the model; None if all crashed."""
        if not self._good:
            return None
        mean, _ = self._posterior([one.point for one in self._good])
        return self._good[int(np.argmax(mean))]

    def ruled_out(self, point: Point) -> bool:
        """Tell whether a crash says that this point crashes, too: it is the same, or takes no less of what ran out."""
        return any(self._covers(one, point) for one in self.tried if one.crash)

    def _covers(self, crashed: Tried, point: Point) -> bool:
        if crashed.crash == "out of memory":
            return all(
                _more(axis, ours, theirs) for axis, ours, theirs in zip(self.axes, point, crashed.point, strict=True)
            )
        guilty = self._guilty(crashed)
        return point == crashed.point if guilty is None else point[guilty] == crashed.point[guilty]

    def _guilty(self, crashed: Tried) -> int | None:
        """Find the axis of a refused option: the only one without order whose value no run without a crash had.

        A server that dies or hangs may do so for several values together.
        """
        new = [
            at
            for at, axis in enumerate(self.axes)
            if not axis.ordered and all(one.point[at] != crashed.point[at] for one in self._good)
        ]
        return new[0] if len(new) == 1 and crashed.crash == "refused option" else None

    def _near(self, points: Sequence[Point]) -> list[Point]:
        """Keep the points that differ from the best run in one option, or in two of which one takes less memory."""
        best = self.best
        return [point for point in points if best and self._is_near(point, best.point)]

    def _is_near(self, point: Point, best: Point) -> bool:
        if (changed := sum(map(operator.ne, point, best))) == 1:
            return True
        memory = [(ours - own) * axis.memory for axis, ours, own in zip(self.axes, point, best, strict=True)]
        return changed == 2 and min(memory) < 0 < max(memory)  # noqa: PLR2004 - two options

    @property
    def _kernels(self) -> Iterator[Point]:
        """Yield the recipe with one other value of an axis without order, so that a crash has one reason."""
        for at, axis in enumerate(self.axes):
            for value in range(len(axis.values)) if not axis.ordered else ():
                yield (*self.start[:at], value, *self.start[at + 1 :])

    @cached_property
    def _good(self) -> list[Tried]:
        return [one for one in self.tried if one.speed is not None]

    @cached_property
    def _open(self) -> list[Point]:
        known = {one.point for one in self.tried}
        return [point for point in self.predicted if point not in known and not self.ruled_out(point)]

    def _survives(self, points: Sequence[Point]) -> Floats:
        """Return the chance that each point does not crash, by a logistic model of all runs."""
        weights = self._risk
        return np.asarray(1 / (1 + np.exp(self._features(points) @ weights)))

    @cached_property
    def _risk(self) -> Floats:
        """Fit the weights of a crash, the most likely ones after what is expected (Böhning and Lindsay, 1988)."""
        mean = np.array(
            [_USUAL_RISK, *(_MEMORY_RISK * axis.memory if axis.ordered else 0.0 for axis, _ in self._columns)]
        )
        precision = np.full(len(mean), _RISK_SPREAD**-2)
        if not self.tried:
            return mean
        features = self._features([one.point for one in self.tried])
        crashed = np.array([one.crash is not None for one in self.tried], dtype=float)
        curve = features.T @ features / 4 + np.diag(precision)  # never too small, so that every round gets closer
        weights = mean
        for _ in range(_ROUNDS):
            chance = 1 / (1 + np.exp(-features @ weights))
            slope = features.T @ (crashed - chance) - precision * (weights - mean)
            weights = weights + np.linalg.solve(curve, slope)
        return weights

    @cached_property
    def _columns(self) -> list[tuple[Axis, int]]:
        """List the features: one for an ordered axis, one for each value of another but the recipe's own."""
        found = []
        for axis, own in zip(self.axes, self.start, strict=True):
            found += [(axis, -1)] if axis.ordered else [(axis, at) for at in range(len(axis.values)) if at != own]
        return found

    def _features(self, points: Sequence[Point]) -> Floats:
        columns = [np.ones(len(points))]
        where = {axis.name: at for at, axis in enumerate(self.axes)}
        for axis, value in self._columns:
            at = where[axis.name]
            here = np.array([point[at] for point in points], dtype=float)
            span = max(len(axis.values) - 1, 1)
            columns.append((here - self.start[at]) / span if axis.ordered else (here == value).astype(float))
        return np.stack(columns, axis=1)

    def _posterior(self, points: Sequence[Point]) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the logarithm of the speed."""
        runs = [one.point for one in self._good]
        known = np.log([one.speed for one in self._good if one.speed is not None])
        level = float(known.mean() - _TRUST * self._belief(runs).mean())
        among = self._covariance(runs, runs) + np.eye(len(runs)) * NOISE**2
        across = self._covariance(points, runs)
        weights = np.linalg.solve(among, across.T)
        mean = level + _TRUST * self._belief(points) + weights.T @ (known - level - _TRUST * self._belief(runs))
        own = _LEVEL**2 + len(self.axes) * _EFFECT**2 + _INTERACTION**2 + (_TRUST * self._belief(points)) ** 2
        return mean, np.sqrt(own - np.sum(across.T * weights, axis=0))

    def _covariance(self, some: Sequence[Point], others: Sequence[Point]) -> Floats:
        alone = sum(_EFFECT**2 * self._alike(at, some, others) for at in range(len(self.axes)))
        belief = np.outer(self._belief(some), self._belief(others)) * _TRUST**2
        return np.asarray(_LEVEL**2 + alone + belief + _INTERACTION**2 * self._resemblance(some, others))

    def _resemblance(self, some: Sequence[Point], others: Sequence[Point]) -> Floats:
        found = np.ones((len(some), len(others)))
        for at in range(len(self.axes)):
            found *= self._alike(at, some, others)
        return found

    def _alike(self, at: int, some: Sequence[Point], others: Sequence[Point]) -> Floats:
        ours, theirs = np.array([p[at] for p in some]), np.array([p[at] for p in others])
        apart = np.abs(ours[:, None] - theirs[None, :])
        if not self.axes[at].ordered:
            return np.where(apart == 0, 1.0, _OTHER)
        reach = _REACH * max(len(self.axes[at].values) - 1, 1)
        return np.asarray(np.exp(-0.5 * (apart / reach) ** 2))

    def _belief(self, points: Sequence[Point]) -> Floats:
        """Return the logarithm of the plan's speed, relative to that of the recipe."""
        return np.log([self.predicted[point] / self.predicted[self.start] for point in points])


def points_of(axes: Sequence[Axis]) -> list[Point]:
    """List every combination of values."""
    return list(itertools.product(*(range(len(axis.values)) for axis in axes)))


def _more(axis: Axis, ours: int, theirs: int) -> bool:
    """Tell whether a value takes at least as much memory as another. Values without that order have to be the same."""
    return (ours - theirs) * axis.memory >= 0 if axis.memory else ours == theirs


def _improvement(over: Floats, deviation: Floats) -> Floats:
    """Return the expected improvements of normal variables whose means are `over` the best."""
    z = over / deviation
    below = np.array([0.5 * (1 + math.erf(one / math.sqrt(2))) for one in z])
    return np.asarray(over * below + deviation * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
