from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planner.queueing import Queue, Targets, at_rate, knee, limits_of_rate, queue_at, sweep, users_within
from orchestrator.planner.serving_figures import serving_figures
from orchestrator.planner.speed import served
from orchestrator.planner.step_time import load_of, step_terms
from orchestrator.planner.users import users_of
from tests.unit.planner.test_speed import TARGETS, asked, runtimes, shapes, unhurried

prompts = st.integers(1, 60_000)
answers = st.integers(1, 4096)
users = st.integers(1, 256)


def queue(shape: str = "8b", **changes: Any) -> Queue:  # noqa: ANN401 - what differs
    found = queue_at(of(shape, **changes))
    assert found is not None
    return found


def of(shape: str = "8b", prompt: int = 2048, answer: int = 256, **changes: Any) -> Any:  # noqa: ANN401 - as above
    return asked(shape, context=prompt + answer, output_tokens=answer, **changes)


@unhurried
@given(shapes, runtimes, users, prompts, answers)
def test_more_users_never_raise_the_speed_of_each(
    shape: str, runtime: str, count: int, prompt: int, answer: int
) -> None:
    few, many = (queue(shape, prompt=prompt, answer=answer, runtime=runtime, batch=size) for size in (count, count + 1))
    assert many.tokens_per_second_of_each <= few.tokens_per_second_of_each * (1 + 1e-9)
    for name in ("p50", "p95"):
        assert getattr(many.per_token, name) >= getattr(few.per_token, name) * (1 - 1e-9)
        assert getattr(many.first_token, name) >= getattr(few.first_token, name) * (1 - 1e-9)


@unhurried
@given(shapes, runtimes, st.integers(1, 64), st.tuples(prompts, st.integers(1, 20_000)), answers)
def test_a_longer_prompt_never_shortens_the_first_token(
    shape: str, runtime: str, count: int, lengths: tuple[int, int], answer: int
) -> None:
    short, long = (
        queue(shape, prompt=length, answer=answer, runtime=runtime, batch=count).first_token
        for length in (lengths[0], sum(lengths))
    )
    assert long.p50 >= short.p50 * (1 - 1e-9)
    assert long.p95 >= short.p95 * (1 - 1e-9)


@unhurried
@given(shapes, runtimes, users, prompts, answers)
def test_tokens_per_second_times_bytes_never_exceed_the_bandwidth(
    shape: str, runtime: str, count: int, prompt: int, answer: int
) -> None:
    serving = of(shape, prompt=prompt, answer=answer, runtime=runtime, batch=count)
    found, load = queue_at(serving), load_of(serving)
    terms = step_terms(load)
    bytes_per_token = (terms["weights"] + terms["cache"]) * load.bandwidth / count
    assert found is not None
    assert found.tokens_per_second * bytes_per_token <= load.bandwidth * (1 + 1e-9)


@unhurried
@given(shapes, users, prompts, answers)
def test_the_high_percentile_is_never_below_the_median(shape: str, count: int, prompt: int, answer: int) -> None:
    found = queue(shape, prompt=prompt, answer=answer, batch=count)
    assert found.first_token.p95 >= found.first_token.p50 >= found.prompt_seconds
    assert found.per_token.p95 >= found.per_token.p50 >= found.step_seconds
    assert 1 <= found.running <= count


def test_one_user_waits_for_nobody() -> None:
    found = queue(batch=1)
    assert found.first_token.p50 == found.first_token.p95 == found.prompt_seconds
    assert found.tokens_per_second == pytest.approx(1 / found.step_seconds)


def test_the_whole_time_of_a_closed_loop_is_what_each_of_its_parts_takes() -> None:
    found = queue(batch=8)
    work = 8 * found.prompt_seconds + 256 * found.step_seconds
    assert found.requests_per_second == pytest.approx(8 / work)
    assert served(of(batch=8)).expected == pytest.approx(256 * found.requests_per_second)


def test_prompts_that_take_all_the_time_leave_few_requests_that_decode() -> None:
    busy, idle = (queue("70b", prompt=prompt, answer=64, batch=16).running for prompt in (32_768, 128))
    assert busy < 10 < idle


def test_a_rate_takes_the_users_that_little_s_law_gives() -> None:
    serving = at_rate(of(), 0.5)
    before = queue_at(dataclasses.replace(serving, batch=serving.batch - 1))
    found = queue_at(serving)
    assert found is not None
    assert before is not None
    assert before.requests_per_second < 0.5 <= found.requests_per_second


def test_a_rate_that_cannot_be_served_is_a_limit() -> None:
    serving = at_rate(of("70b"), 100.0, 8)
    assert serving.batch == 8
    (limit,) = limits_of_rate(serving)
    assert "100 requests/s arrive, and it serves" in limit
    assert limit in serving_figures(serving).limits
    assert not list(limits_of_rate(at_rate(of(), 0.5)))


def test_users_within_targets_are_the_most_that_meet_them() -> None:
    targets = Targets(first_token=1.0, per_token=0.05)
    most = users_within(of(), targets, 256)
    assert 0 < most < 256
    assert queue(batch=most).meets(targets)
    assert not queue(batch=most + 1).meets(targets)
    assert users_within(of(), Targets(first_token=1e-6), 256) == 0
    assert users_within(of(), Targets(first_token=1e6), 256) == 256


def test_the_sweep_ends_with_what_fits_and_its_knee_is_inside() -> None:
    found = sweep(of(), 48)
    assert [one.users for one in found] == [1, 2, 4, 8, 16, 32, 48]
    assert 1 < knee(found).users < 48


def test_more_users_than_the_server_takes_are_named() -> None:
    found = users_of(of(batch=9), 8)
    assert found is not None
    assert "9 users, and the server takes 8 requests at once" in found.limits[0]


def test_without_a_gpu_or_a_length_there_are_no_users() -> None:
    assert users_of(of(target=TARGETS["cpu"]), 8) is None
    assert users_of(asked(), 8) is None


def test_targets_without_any_time_are_not_given() -> None:
    assert not Targets().given
    assert Targets(per_token=0.05).given
