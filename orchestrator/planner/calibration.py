"""Fit an engine's constants to measurements: few unknowns, each held near what is known where measurements are few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.planner.constants import COSTS, Cost, EngineConstants

Floats = NDArray[np.float64]

_ROUNDS = 6
"""Of reweighting; the costs settle in three or four."""
_SWEEPS = 200
_OUTLIER = 0.1
"""Relative error from which a measurement counts less the further it is off (Huber's rule)."""


@dataclass(frozen=True)
class Observation:
    """One measured time, and what it is made of."""

    terms: Mapping[Cost, float]
    """Seconds of each cost at 1."""
    seconds: float
    group: Hashable = field(default=None)
    """Measurements of one run share their weight: twenty points of one model say little more than five."""


def fit_costs(
    observations: Sequence[Observation], prior: Mapping[Cost, float], *, trust: float = 0.3
) -> dict[Cost, float]:
    """Find the costs, none below zero, with the least squares of relative errors.

    Args:
        observations: What was measured.
        prior: What is known before. A cost that the observations do not tell stays there.
        trust: Weight of the prior: that of a departure of 100 % from it, in errors of 100 % of one group.
    """
    start = np.array([prior[cost] for cost in COSTS])
    if not observations:
        return dict(prior)
    rows = np.array([[one.terms.get(cost, 0.0) / one.seconds for cost in COSTS] for one in observations])
    counts = Counter(one.group for one in observations)
    weights = np.array([counts[one.group] ** -0.5 for one in observations])
    scale = np.where(start > 0, trust / np.maximum(start, 1e-12), trust / 1e-12)
    costs = start
    for _ in range(_ROUNDS):
        error = np.abs(rows @ costs - 1)
        kept = weights * np.sqrt(np.minimum(1, _OUTLIER / np.maximum(error, 1e-9)))
        matrix = np.vstack([rows * kept[:, None], np.diag(scale)])
        costs = _non_negative(matrix, np.concatenate([kept, scale * start]), costs)
    return {cost: float(value) for cost, value in zip(COSTS, costs, strict=True)}


def calibrated(
    engine: EngineConstants, observations: Sequence[Observation], basis: str, *, trust: float = 0.3
) -> EngineConstants:
    """Fit an engine's costs to this machine's measurements, starting from the known ones."""
    return replace(engine, costs=fit_costs(observations, engine.costs, trust=trust), basis=basis)


def _non_negative(matrix: Floats, right: Floats, start: Floats) -> Floats:
    """Solve non-negative least squares by coordinate descent, which a ridge makes converge fast."""
    product, against, found = matrix.T @ matrix, matrix.T @ right, start.copy()
    for _ in range(_SWEEPS):
        for index in range(len(found)):
            rest = against[index] - product[index] @ found + product[index, index] * found[index]
            found[index] = max(0.0, rest / product[index, index])
    return found
