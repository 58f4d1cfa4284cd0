"""Repeats a measurement until the interval of its mean is narrow.

The interval is Student's (Biometrika 6, 1908): mean ± t s / √n, for runs that are independent and about normal. A rule
that stops at the first narrow interval is a little too confident; the least number of runs bounds this.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from orchestrator.payloads._performance import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEAST_RUNS = 3
_T = (
    4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
)  # fmt: skip
"""Student's 97.5 % quantiles for 2 to 29 degrees of freedom."""


def half_width(values: Sequence[float]) -> float:
    """Return the half width of the 95 % interval of the mean, relative to the mean.

    Args:
        values: 3 to 30 measurements above 0.
    """
    return _T[len(values) - LEAST_RUNS] * stdev(values) / math.sqrt(len(values)) / fmean(values)


def repeated(measure: Callable[[int], Level], precision: float | None, most: int) -> Level:
    """Measure a level until its tokens per second are known well enough, and average all figures.

    Args:
        measure: Measures once; gets the number of the run, from 0.
        precision: The relative half width to reach; None: one run is enough.
        most: Runs at most.
    """
    first = measure(0)
    if precision is None:
        return first
    levels = [first]
    while len(levels) < LEAST_RUNS or (len(levels) < most and half_width(_speeds(levels)) > precision):
        levels.append(measure(len(levels)))
    speeds, figures = _speeds(levels), [level.measured for level in levels]
    width = half_width(speeds)
    interval = {"confidence": 0.95, "relative_half_width": width, "reached": width <= precision, "runs": speeds}
    return Level(first.concurrency, first.command, first.report, _mean(figures), first.tool_version, interval)


def _speeds(levels: Sequence[Level]) -> list[float]:
    return [level.measured["output_tokens_per_second"] for level in levels]


def _mean(values: Sequence[Any]) -> Any:  # noqa: ANN401 - figures of a report, at any depth
    """Average figures; a percentile becomes the mean of the runs' percentiles. One that a run lacks is None."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], dict):
        return {name: _mean([value.get(name) for value in values]) for name in values[0]}
    return fmean(values)
