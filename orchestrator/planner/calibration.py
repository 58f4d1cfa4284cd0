"""Fits a runtime's constants to measurements. With few measurements, each constant stays near its known value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.catalog.target import Target
from orchestrator.errors import MeasurementUnusableError
from orchestrator.models.shape import ModelShape
from orchestrator.planner.constants import COSTS, Constants, Cost, Runtime, RuntimeConstants
from orchestrator.planner.queueing import queue_of
from orchestrator.planner.scheme import Scheme
from orchestrator.planner.serving import Serving
from orchestrator.planner.step_time import load_of, served_terms, step_terms
from orchestrator.values import frozen

Floats = NDArray[np.float64]

_ROUNDS = 6
"""Rounds of reweighting. The costs settle in three or four."""
_SWEEPS = 200
_TENSOR_PARALLEL = ("--tp", "--tensor-parallel-size")
"""The options of trtllm-bench and vLLM for the GPUs that share a model."""
_OUTLIER = 0.1
"""Relative error above which a measurement gets less weight (Huber's rule)."""


@frozen
class Observation:
    """One measured time and its terms."""

    terms: Mapping[Cost, float]
    """Seconds of each cost if its constant is 1."""
    seconds: float
    group: Hashable = field(default=None)
    """Measurements of one run share their weight, because twenty points of one model say little more than five."""


def fit_costs(
    observations: Sequence[Observation], prior: Mapping[Cost, float], *, trust: float = 0.3
) -> dict[Cost, float]:
    """Find the non-negative costs with the least squares of relative errors.

    Args:
        observations: The measurements.
        prior: The known costs. A cost that the observations do not determine keeps its prior.
        trust: Weight of the prior: that of a deviation of 100 % from it, in errors of 100 % of one group.
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
    runtime: RuntimeConstants, observations: Sequence[Observation], basis: str, *, trust: float = 0.3
) -> RuntimeConstants:
    """Fit a runtime's costs to this machine's measurements, starting from the known costs."""
    experts = any(one.terms.get("prefill_experts") for one in observations)
    return replace(
        runtime,
        costs=fit_costs(observations, runtime.costs, trust=trust),
        basis=basis,
        experts_measured=runtime.experts_measured or experts,
        measured=True,
    )


def observations_of(
    document: Mapping[str, Any],
    shape: ModelShape,
    scheme: Scheme,
    target: Target,
    constants: Constants,
    *,
    runtime: Runtime = "trtllm",
) -> list[Observation]:
    """Read what a benchmark measured, one observation per level of concurrency.

    trtllm-bench and `payloads/measure.py`, which measures the other runtimes, keep `concurrency` requests active: while
    one answer is generated, as many prompts are read.

    Args:
        document: A performance.json.
        shape: The model that was served.
        scheme: The format of its weights.
        target: The machine.
        constants: The known constants.
        runtime: What served it.

    Raises:
        MeasurementUnusableError: It lacks a figure, or is faster than the machine's bandwidth allows.
    """
    try:
        prompt, answer = int(document["dataset"]["input_tokens"]), int(document["dataset"]["output_tokens"])
        levels = [(int(level["concurrency"]), float(level["output_tokens_per_second"])) for level in document["levels"]]
        gpus = max((_tensor_parallel(level["command"]) for level in document["levels"]), default=1)
    except (KeyError, TypeError, ValueError) as error:
        message = f"it lacks a figure, or has one that is no number: {error}"
        raise MeasurementUnusableError(message) from error
    if prompt < 1 or answer < 1 or not levels:
        message = f"found prompts of {prompt} and answers of {answer} tokens at {len(levels)} levels, expected some"
        raise MeasurementUnusableError(message)
    serving = Serving(
        shape,
        scheme,
        scheme.kv_cache,
        target,
        target.description,
        runtime,
        context=prompt + answer,
        output_tokens=answer,
        gpus=gpus,
    )
    group = str(document.get("provenance", {}).get("key", id(document)))
    found = []
    for concurrency, measured in levels:
        if not (math.isfinite(measured) and measured > 0 and concurrency > 0):
            message = f"concurrency {concurrency}: found {measured} tokens/s, expected a number above 0"
            raise MeasurementUnusableError(message)
        load = load_of(replace(serving, batch=concurrency), constants)
        least = step_terms(replace(load, batch=1))["weights"]
        if concurrency / measured < least:
            message = (
                f"concurrency {concurrency}: found {measured:.4g} tokens/s, but reading the weights once per step "
                f"allows {concurrency / least:.4g}: drafts were accepted, or this is not the model"
            )
            raise MeasurementUnusableError(message)
        running = queue_of(load, concurrency, answer).running
        terms = served_terms(replace(load, batch=running), answer, prompts=concurrency)
        found.append(Observation(terms, concurrency / measured, group))
    return found


def mean_error(observations: Sequence[Observation], runtime: RuntimeConstants) -> float:
    """Return the mean relative error of the times that constants predict."""
    errors = [
        abs(sum(seconds * runtime.costs[cost] for cost, seconds in one.terms.items()) / one.seconds - 1)
        for one in observations
    ]
    return sum(errors) / len(errors)


def _tensor_parallel(command: Sequence[str]) -> int:
    found = (int(value) for name, value in pairwise(command) if name in _TENSOR_PARALLEL)
    return next(found, 1)


def _non_negative(matrix: Floats, right: Floats, start: Floats) -> Floats:
    """Solve non-negative least squares by coordinate descent. A ridge makes it converge fast."""
    product, against, found = matrix.T @ matrix, matrix.T @ right, start.copy()
    for _ in range(_SWEEPS):
        for index in range(len(found)):
            rest = against[index] - product[index] @ found + product[index, index] * found[index]
            found[index] = max(0.0, rest / product[index, index])
    return found
