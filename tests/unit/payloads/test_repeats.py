"""A level is repeated until the mean's interval is narrow, and all its figures are averaged."""

from __future__ import annotations

import random

import pytest

from orchestrator.payloads._performance import Level
from orchestrator.payloads._repeats import half_width, repeated


def level(speed: float, first: float | None = 10.0) -> Level:
    measured = {"output_tokens_per_second": speed, "time_to_first_token_ms": first and {"p95": first}}
    return Level(4, ["bench"], "report-4.json", measured, "1.0")


def test_the_interval_is_that_of_student() -> None:
    # mean 10, s = 1, so 4.303 · 1 / √3 / 10
    assert half_width([9.0, 10.0, 11.0]) == pytest.approx(0.24843, abs=1e-5)
    source = random.Random(3)  # noqa: S311 - repeatable, not secret
    runs = [[source.gauss(100, 3) for _ in range(5)] for _ in range(2000)]
    holds = sum(abs(sum(run) / 5 - 100) <= half_width(run) * sum(run) / 5 for run in runs)
    assert holds / len(runs) == pytest.approx(0.95, abs=0.015)


def test_without_a_precision_it_is_measured_once() -> None:
    only = level(10.0)
    assert repeated(lambda _: only, None, 10) is only


@pytest.mark.parametrize(("noise", "runs", "reached"), [(0.001, 3, True), (0.05, 10, False)])
def test_it_ends_when_the_interval_is_narrow_or_at_the_most_runs(noise: float, runs: int, reached: bool) -> None:
    found = repeated(lambda run: level(100 * (1 + (noise if run % 2 else -noise))), 0.03, 10)
    assert found.interval is not None
    assert (len(found.interval["runs"]), found.interval["reached"]) == (runs, reached)
    assert found.measured["output_tokens_per_second"] == pytest.approx(sum(found.interval["runs"]) / runs)


def test_a_figure_that_one_run_lacks_is_not_averaged() -> None:
    figures = [level(10.0, 10.0), level(10.0, 20.0), level(10.0, None)]
    assert repeated(lambda run: figures[run], 0.1, 3).measured["time_to_first_token_ms"] is None
    figures[2] = level(10.0, 30.0)
    assert repeated(lambda run: figures[run], 0.1, 3).measured["time_to_first_token_ms"] == {"p95": 20.0}
