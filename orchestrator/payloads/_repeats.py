"""Repeats a measurement until the interval of its mean is narrow.

A rule that stops at the first narrow interval is a little too confident; the least number of runs bounds this.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from orchestrator.payloads._performance import Level
from orchestrator.quantization.intervals import LEAST, student

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def half_width(values: Sequence[float]) -> float:
    """Return the half width of the 95 % interval of the mean, relative to the mean.

    Args:
        values: At least 3 measurements above 0.
    """
    return student(len(values)) * stdev(values) / math.sqrt(len(values)) / fmean(values)


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
    while len(levels) < LEAST or (len(levels) < most and half_width(_speeds(levels)) > precision):
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
