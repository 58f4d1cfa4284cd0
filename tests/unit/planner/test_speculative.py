from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpeedInputError
from orchestrator.planner.speculative import (
    acceptance_for,
    check_cost_ratio,
    speculative,
    tokens_needed,
    tokens_per_step,
)
from orchestrator.planner.speed import Band
from orchestrator.planner.step_time import load_of
from tests.unit.planner.test_speed import asked

PLAIN = Band(4.0, 5.0, 6.0)
unhurried = settings(deadline=None)
lengths = st.integers(1, 16)
shares = st.floats(0.0, 1.0)
costs = st.floats(0.0, 0.5)


def test_three_drafts_of_which_each_is_accepted_half_the_time_give_fifteen_eighths() -> None:
    assert tokens_per_step(3, 0.5) == 1.875


def test_drafts_that_are_all_accepted_and_cost_nothing_multiply_the_speed() -> None:
    found = speculative(PLAIN, draft_cost_ratio=0.0, draft_len=3, acceptance=1.0)
    assert found.speed == Band(16.0, 20.0, 24.0)


def test_drafts_that_are_never_accepted_only_cost() -> None:
    assert speculative(PLAIN, draft_cost_ratio=0.1, draft_len=4, acceptance=0.0).gain == pytest.approx(1 / 1.4)


@unhurried
@given(lengths, costs, shares, shares)
def test_more_acceptance_is_never_slower(length: int, cost: float, one: float, other: float) -> None:
    low, high = (
        speculative(PLAIN, draft_cost_ratio=cost, draft_len=length, acceptance=share).gain
        for share in sorted((one, other))
    )
    assert low <= high * (1 + 1e-12)


@unhurried
@given(lengths, costs, st.floats(0.01, 0.99))
def test_the_acceptance_for_a_speed_gives_that_speed(length: int, cost: float, share: float) -> None:
    wanted = speculative(PLAIN, draft_cost_ratio=cost, draft_len=length, acceptance=share).speed.expected
    assert acceptance_for(wanted, PLAIN, draft_cost_ratio=cost, draft_len=length) == pytest.approx(share, abs=1e-6)


def test_a_speed_that_no_acceptance_gives_has_none() -> None:
    assert acceptance_for(100.0, PLAIN, draft_cost_ratio=0.1, draft_len=3) is None


def test_a_speed_below_the_plain_one_takes_no_acceptance() -> None:
    assert acceptance_for(4.0, PLAIN, draft_cost_ratio=0.0, draft_len=3) == pytest.approx(0.0, abs=1e-9)


def test_18_to_20_tokens_per_second_of_a_70b_take_almost_three_tokens_a_step_even_at_the_bandwidth_limit() -> None:
    assert tokens_needed(18, 6.9) == pytest.approx(2.6, abs=0.05)
    assert tokens_needed(20, 6.9) == pytest.approx(2.9, abs=0.05)


def test_checking_drafts_costs_a_mixture_of_experts_more_than_a_dense_model() -> None:
    dense, moe = (
        check_cost_ratio(
            load_of(asked(name, context=512)),
            3,
        )
        for name in ("70b", "moe")
    )
    assert 1 < dense < 1.1 < moe < 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("draft_len", 0),
        ("draft_len", 1.5),
        ("draft_cost_ratio", -0.1),
        ("draft_cost_ratio", math.nan),
        ("acceptance", 1.1),
        ("acceptance", math.nan),
        ("check_cost_ratio", 0.5),
    ],
)
def test_a_number_that_cannot_be_is_named(name: str, value: float) -> None:
    given_numbers: dict[str, Any] = {"draft_cost_ratio": 0.1, "draft_len": 3, "acceptance": 0.5} | {name: value}
    with pytest.raises(SpeedInputError, match=name):
        speculative(PLAIN, **given_numbers)


@pytest.mark.parametrize("wanted", [0.0, -1.0, math.nan, math.inf])
def test_a_wanted_speed_that_cannot_be_is_named(wanted: float) -> None:
    with pytest.raises(SpeedInputError, match="wanted"):
        tokens_needed(wanted, 5.0)
