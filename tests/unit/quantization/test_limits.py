"""Limits where a recipe sets none."""

from __future__ import annotations

import pytest

from orchestrator.quantization.format_names import SINGLE_FORMATS
from orchestrator.quantization.limits import (
    MUCH_WORSE,
    NORMAL,
    WORSE,
    Figures,
    Limit,
    Limits,
    limits,
    normal,
    other_ways,
)


@pytest.mark.parametrize("name", SINGLE_FORMATS)
def test_every_format_of_our_quantizer_has_limits(name: str) -> None:
    found, usual = limits(name), NORMAL[name]
    assert found.kl_divergence == Limit(MUCH_WORSE * usual.kl_divergence, WORSE * usual.kl_divergence)
    assert found.perplexity_increase == Limit(MUCH_WORSE * usual.perplexity_increase, WORSE * usual.perplexity_increase)
    assert found.format == name.upper()


def test_fewer_bits_may_cost_more() -> None:
    weights_alone, both, fp8 = (NORMAL[name] for name in ("w4a16_nvfp4", "nvfp4", "fp8"))
    assert fp8.kl_divergence < weights_alone.kl_divergence < both.kl_divergence
    assert fp8.perplexity_increase < weights_alone.perplexity_increase < both.perplexity_increase


def test_smollm2_in_nvfp4_by_max_fails_and_with_weighted_scales_of_weights_alone_passes() -> None:
    """The figures of a build on a processor, perplexity 153 to 209, and of the measurements in the documentation."""
    nvfp4, weights_alone = limits("nvfp4"), limits("w4a16_nvfp4")
    assert nvfp4.kl_divergence is not None
    assert nvfp4.perplexity_increase is not None
    assert weights_alone.kl_divergence is not None
    assert nvfp4.kl_divergence.normal_up_to is not None
    assert weights_alone.kl_divergence.normal_up_to is not None
    assert nvfp4.kl_divergence.normal_up_to < 0.358
    assert nvfp4.perplexity_increase.most < 209 / 153 - 1
    assert weights_alone.kl_divergence.most < 0.252, "with scales by max"
    assert weights_alone.kl_divergence.normal_up_to > 0.107, "with weighted scales"


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (4.5, NORMAL["nvfp4"]),
        (6.25, Figures(0.0825, 0.06)),
        (8.0, NORMAL["fp8"]),
        (12.0, NORMAL["fp8"]),
        (4.0, NORMAL["nvfp4"]),
    ],
)
def test_several_formats_have_what_their_bits_are_worth(bits: float, expected: Figures) -> None:
    found = normal("mixed_precision", bits)
    assert found is not None
    assert found.kl_divergence == pytest.approx(expected.kl_divergence)
    assert found.perplexity_increase == pytest.approx(expected.perplexity_increase)
    assert limits("mixed_precision", bits).format == f"NVFP4 and FP8 at {bits:.3g} bits"


@pytest.mark.parametrize("name", ["int4_awq", "mixed_precision", "bf16"])
def test_a_format_without_known_figures_has_no_limits(name: str) -> None:
    assert limits(name) == Limits()


def test_a_recipes_own_limit_replaces_that_of_the_format_and_warns_of_nothing() -> None:
    found = limits("nvfp4", max_kl_divergence=5.0)
    assert found.kl_divergence == Limit(5.0)
    assert found.perplexity_increase == limits("nvfp4").perplexity_increase


@pytest.mark.parametrize(
    ("name", "search", "first", "ways"),
    [
        ("nvfp4", "max", "scale_search: weighted", 3),
        ("nvfp4", "weighted", "format: w4a16_nvfp4", 2),
        ("w4a16_nvfp4", "mse", "scale_search: weighted", 2),
        ("mixed_precision", "weighted", "raise the budget", 1),
    ],
)
def test_the_cheapest_change_is_named_first(name: str, search: str, first: str, ways: int) -> None:
    found = other_ways(name, search)
    assert first in found[0]
    assert len(found) == ways


def test_fp8_has_no_other_way_than_to_leave_modules_out() -> None:
    assert other_ways("fp8", "max") == []
