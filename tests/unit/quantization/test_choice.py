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


def test_a_larger_format_with_the_same_error_is_never_chosen() -> None:
    group = Group(("m",), (Option("nvfp4", 100, 0.5), Option("fp8", 200, 0.5), Option("bf16", 400, 0.0)))
    found = _choose([group], 399)
    assert found.formats == {"m": "nvfp4"}
    assert found.curve == ((100, 0.5), (400, 0.0))


def test_a_format_that_is_as_good_as_a_mixture_of_its_neighbours_is_no_step_of_its_own() -> None:
    group = Group(("m",), (Option("nvfp4", 100, 3.0), Option("fp8", 200, 2.0), Option("bf16", 400, 0.0)))
    assert _choose([group], 1000).curve == ((100, 3.0), (400, 0.0))


def test_of_formats_of_one_size_the_one_with_less_error_is_chosen() -> None:
    group = Group(("m",), (Option("nvfp4", 100, 0.5), Option("mxfp4", 100, 0.4)))
    assert _choose([group], 100).formats == {"m": "mxfp4"}


def test_after_a_step_that_does_not_fit_no_further_one_is_made() -> None:
    large = Group(("large",), (Option("nvfp4", 100, 1000.0), Option("bf16", 400, 0.0)))
    small = Group(("small",), (Option("nvfp4", 10, 0.1), Option("bf16", 40, 0.0)))
    assert _choose([large, small], 150).formats == {"large": "nvfp4", "small": "nvfp4"}


def test_the_document_has_every_figure_of_the_choice() -> None:
    group = Group(("m", "n"), (Option("nvfp4", 100, 1.23456789), Option("bf16", 400, 0.0)))
    assert choose([group], 399, 200).document() == {
        "bytes": 100,
        "bits_per_weight": 4.0,
        "error": 1.23457,
        "groups": [
            {"modules": ["m", "n"], "format": "nvfp4", "bytes": 100, "errors": {"nvfp4": 1.23457, "bf16": 0.0}},
        ],
        "curve": [
            {"bytes": 100, "bits_per_weight": 4.0, "error": 1.23457},
            {"bytes": 400, "bits_per_weight": 16.0, "error": 0.0},
        ],
    }


def test_the_bits_that_a_refusal_names_are_enough() -> None:
    group = Group(("m",), (Option("nvfp4", 1001, 1.0), Option("bf16", 4000, 0.0)))
    with pytest.raises(RecipeInvalidError) as raised:
        choose([group], 1000, 2000)
    assert raised.value.hint == ("allow at least 1 bytes more, which is 4.004 bits per weight, or use a smaller model")
