"""Formats within a budget: never above it, never worse for more of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import RecipeInvalidError
from orchestrator.quantization.choice import Choice, Group, Option, choose

_ERRORS = st.floats(min_value=0, max_value=1, allow_nan=False)


@st.composite
def _groups(draw: st.DrawFn) -> list[Group]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        size = draw(st.integers(100, 10_000))
        four, eight = draw(_ERRORS), draw(_ERRORS)  # in any order: what was measured may be odd
        options = (Option("nvfp4", size, four), Option("fp8", size * 2, eight), Option("bf16", size * 4, 0.0))
        made.append(Group((f"m{number}",), options))
    return made


def _choose(groups: list[Group], limit: int) -> Choice:
    return choose(groups, limit, sum(group.options[-1].size // 2 for group in groups))


def _smallest(groups: list[Group]) -> int:
    return sum(group.options[0].size for group in groups)


@given(_groups(), st.integers(0, 200_000))
def test_the_result_is_within_the_budget(groups: list[Group], more: int) -> None:
    limit = _smallest(groups) + more
    found = _choose(groups, limit)
    assert found.size <= limit
    assert [point[0] for point in found.curve].count(found.size) >= 1


@given(_groups(), st.integers(0, 100_000), st.integers(0, 100_000))
def test_more_budget_never_has_more_error(groups: list[Group], one: int, more: int) -> None:
    less, later = (_choose(groups, _smallest(groups) + extra) for extra in (one, one + more))
    assert later.error <= less.error + 1e-12


@given(_groups())
def test_what_is_left_of_a_budget_is_less_than_the_next_step(groups: list[Group]) -> None:
    whole = _choose(groups, 10**9)
    for (size, error), (larger, smaller) in zip(whole.curve, whole.curve[1:], strict=False):
        assert larger > size
        assert smaller <= error + 1e-12
        found = _choose(groups, larger - 1)
        assert found.size == size
        assert found.error == pytest.approx(error, abs=1e-9)
    assert whole.error == pytest.approx(0, abs=1e-12)


def test_the_step_that_takes_away_most_error_a_byte_comes_first() -> None:
    dull = Group(("dull",), (Option("nvfp4", 100, 0.1), Option("fp8", 200, 0.05), Option("bf16", 400, 0.0)))
    keen = Group(("keen",), (Option("nvfp4", 1000, 9.0), Option("fp8", 2000, 1.0), Option("bf16", 4000, 0.0)))
    assert dict(_choose([dull, keen], 2100).formats) == {"dull": "nvfp4", "keen": "fp8"}
    assert dict(_choose([dull, keen], 2099).formats) == {"dull": "nvfp4", "keen": "nvfp4"}


def test_a_format_that_is_worse_than_a_mixture_is_never_chosen() -> None:
    group = Group(("m",), (Option("nvfp4", 100, 1.0), Option("fp8", 200, 0.99), Option("bf16", 400, 0.0)))
    formats = {_choose([group], limit).formats["m"] for limit in range(100, 401)}
    assert formats == {"nvfp4", "bf16"}


def test_too_small_a_budget_is_refused_with_both_numbers() -> None:
    groups = [Group((f"m{number}",), (Option("nvfp4", 100, 1.0), Option("bf16", 400, 0.0))) for number in range(3)]
    with pytest.raises(RecipeInvalidError, match="allows 299 bytes for modules that take 300") as raised:
        _choose(groups, 299)
    assert "at least 1 bytes more, which is 4.0 bits per weight" in raised.value.hint
    assert isinstance(_choose(groups, 300), Choice)
