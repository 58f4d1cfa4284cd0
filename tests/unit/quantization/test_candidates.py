"""Names of candidates, and which of them a comparison calls the best."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from orchestrator.quantization.candidate_findings import Findings, LayerFindings, Sums
from orchestrator.quantization.candidates import compared, most_demanding, parse
from orchestrator.quantization.format_names import SCALE_SEARCHES
from orchestrator.quantization.intervals import half_width_of_ratio, student
from orchestrator.quantization.schemes import Nvfp4, searching
from orchestrator.recipe.model import Quantization, Recipe

_TOKENS = np.array([10, 20, 10, 30], np.int64)
_LAYER = LayerFindings(0, {}, {name: 0 for search in SCALE_SEARCHES for name in (search, f"{search}+gptq")})


def _found(**divergences: list[float]) -> dict[str, Any]:
    """Judge candidates by their sums over four sequences; `_gptq` in a name is what is done besides."""
    candidates = parse(",".join(name.replace("_gptq", "+gptq") for name in divergences))
    size = len(next(iter(divergences.values())))
    sums = {
        candidate.name: Sums(np.array(values), np.full(size, 5.0), np.full(size, 12.0))
        for candidate, values in zip(candidates, divergences.values(), strict=True)
    }
    return Findings(candidates, _TOKENS[:size], np.full(size, 10.0), sums, (_LAYER,)).document()


def test_names_are_read_in_any_order_and_once() -> None:
    found = parse(" weighted+headroom+gptq, max,max ,four_over_six+gptq")
    assert [one.name for one in found] == ["weighted+gptq+headroom", "max", "four_over_six+gptq"]
    assert found[0].values == {"scale_search": "weighted", "rounding": "gptq", "input_scales": "headroom"}
    assert found[1].values == {"scale_search": "max", "rounding": "nearest", "input_scales": "max"}


@pytest.mark.parametrize(
    ("text", "named"),
    [("max,best,mse+awq", "'best', 'mse+awq'"), ("", "''"), ("gptq", "'gptq'"), ("mse+gptq+gptq", "'mse+gptq+gptq'")],
)
def test_unknown_names_are_told_together_with_those_that_exist(text: str, named: str) -> None:
    with pytest.raises(ValueError, match="unknown") as caught:
        parse(text)
    for part in (f"unknown: {named};", *SCALE_SEARCHES, "+gptq"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", SCALE_SEARCHES)
def test_a_candidate_is_a_scheme(name: str) -> None:
    for candidate in parse(f"{name},{name}+gptq"):
        scheme = searching(**candidate.values)["nvfp4"]
        assert isinstance(scheme, Nvfp4)
        assert (scheme.search, scheme.compensates) == (name, "gptq" in candidate.besides)


def test_the_most_demanding_needs_what_any_needs() -> None:
    assert most_demanding(parse("max+gptq,weighted")).name == "weighted+gptq"
    assert most_demanding(parse("max,mse")).name == "mse"


def test_the_lowest_is_the_best_if_it_differs_from_all_others() -> None:
    found = _found(max=[2.0, 4.1, 1.9, 6.0], weighted=[1.0, 2.0, 1.0, 3.1])
    assert (found["lowest"], found["best"], found["tied"]) == ("weighted", "weighted", ["weighted"])
    assert found["candidates"][0]["behind"]["low"] > 0


def test_of_those_that_may_be_as_good_the_one_that_takes_the_least_is_the_best() -> None:
    found = _found(
        weighted_gptq=[1.0, 2.0, 1.0, 3.0],
        weighted=[1.2, 1.9, 1.1, 3.0],
        mse=[1.3, 1.8, 1.1, 3.0],
        max=[2.0, 4.1, 1.9, 6.0],
    )
    assert (found["lowest"], found["best"]) == ("weighted+gptq", "mse")
    assert found["tied"] == ["weighted+gptq", "weighted", "mse"]


def test_equal_candidates_are_tied_and_the_quickest_is_the_best() -> None:
    found = _found(mse=[1.0, 2.0, 1.0, 3.0], four_over_six=[1.0, 2.0, 1.0, 3.0])
    assert (found["lowest"], found["best"]) == ("four_over_six", "four_over_six")


def test_differences_are_paired_over_samples() -> None:
    """Samples differ more from each other than candidates do, and by the same share."""
    found = _found(max=[1.1, 20.4, 0.3, 9.3], mse=[1.0, 20.2, 0.2, 9.0])
    (one, other) = (row["divergence"] for row in found["candidates"])
    assert other["high"] > one["mean"] > other["mean"]
    assert found["tied"] == ["mse"]


def test_two_samples_tell_no_interval_and_no_tie() -> None:
    found = _found(max=[1.0, 2.0], mse=[1.0, 1.9])
    assert found["candidates"][0]["divergence"] == {"mean": 0.1, "low": None, "high": None}
    assert (found["best"], found["tied"]) == ("mse", ["mse"])


def test_figures_are_means_over_tokens() -> None:
    found = _found(max=[1.0, 2.0, 1.0, 3.0])
    (row,) = found["candidates"]
    assert (found["tokens"], found["sequences"]) == (70, 4)
    assert row["divergence"]["mean"] == pytest.approx(0.1)
    assert row["agreement"]["mean"] == pytest.approx(20 / 70, rel=1e-5)
    assert found["original"]["perplexity"] == pytest.approx(math.exp(40 / 70), rel=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(48 / 70), rel=1e-5)
    assert row["perplexity_increase"]["mean"] == pytest.approx(math.exp(8 / 70) - 1, rel=1e-5)


def test_with_equal_samples_the_interval_is_that_of_their_means() -> None:
    sums, count = np.array([3.0, 5.0, 4.0, 8.0, 2.5]), 10
    means = [value / count for value in sums]
    expected = 2.776 * stdev(means) / math.sqrt(len(means))
    assert half_width_of_ratio(sums, np.full(5, count)) == pytest.approx(expected)
    assert fmean(means) == pytest.approx(sums.sum() / 50)


def test_half_of_intervals_of_95_percent_would_be_too_few() -> None:
    """Nearly all intervals of drawn samples of unequal length have the true mean."""
    drawn, inside, rounds = np.random.default_rng(4), 0, 2000
    for _ in range(rounds):
        counts = drawn.integers(20, 60, 12)
        sums = np.array([drawn.exponential(0.3, count).sum() * drawn.uniform(0.8, 1.2) for count in counts])
        half = half_width_of_ratio(sums, counts)
        assert half is not None
        inside += abs(sums.sum() / counts.sum() - 0.3) < half
    assert 0.93 < inside / rounds < 0.97


def test_students_quantile_goes_on_beyond_the_table() -> None:
    values = [student(count) for count in range(3, 200)]
    assert values == sorted(values, reverse=True)
    assert student(31) == pytest.approx(2.042, abs=0.002)
    assert student(101) == pytest.approx(1.984, abs=0.001)


@pytest.mark.parametrize(
    ("chosen", "others", "names"),
    [
        ({}, ["max"], ["max"]),
        ({"scale_search": "weighted"}, [], []),
        ({"scale_search": "weighted"}, ["max", "max", "mse"], ["weighted", "max", "mse"]),
        (
            {"scale_search": "weighted", "rounding": "gptq", "input_scales": "headroom", "smoothing": "norms"},
            ["max"],
            ["weighted+gptq+headroom", "max"],
        ),
    ],
)
def test_a_recipes_own_way_comes_before_those_that_it_is_compared_with(
    chosen: dict[str, str], others: list[str], names: list[str]
) -> None:
    recipe = SimpleNamespace(
        quantization=Quantization(format="nvfp4", method="onepass", **chosen),
        checks=SimpleNamespace(compare=others),
    )
    assert [one.name for one in compared(cast("Recipe", recipe))] == names
