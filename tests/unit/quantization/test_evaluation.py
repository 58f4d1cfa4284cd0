"""The quality gate: what a comparison of two models found, against the limits of a recipe."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import CheckpointError
from orchestrator.quantization.evaluation import (
    Evaluation,
    GroupError,
    LayerError,
    advice,
    as_document,
    blame,
    judge,
    meaning,
)
from orchestrator.quantization.limits import Limits, limits


def own(max_kl_divergence: float | None = None, max_perplexity_increase: float | None = None) -> Limits:
    """Limits that a recipe sets, of a format whose normal figures are not known."""
    return limits("int4_awq", None, max_kl_divergence, max_perplexity_increase)


Q = GroupError(("model.layers.0.self_attn.q_proj",), 0.1)
UP = GroupError(("model.layers.0.mlp.up_proj",), 0.2)
DOWN = GroupError(("model.layers.1.mlp.down_proj",), 0.7)
FOUND = Evaluation(
    tokens=120,
    kl_divergence=0.25,
    kl_divergence_p99=1.5,
    agreement=0.75,
    original_perplexity=8.0,
    quantized_perplexity=10.0,
    layers=(LayerError(0, 0.3, (Q, UP)), LayerError(1, 0.9, (DOWN,))),
)
"""Divergence 0.25, perplexity a quarter higher; 70 % of the error comes from one group."""


def test_without_limits_everything_passes_and_the_figures_are_printed() -> None:
    divergence, perplexity = judge(FOUND, own())
    assert (divergence.name, divergence.passed) == ("kl_divergence", True)
    assert divergence.detail == "0.25 nats a token over 120 tokens"
    assert (perplexity.name, perplexity.passed) == ("perplexity", True)
    assert perplexity.detail == "+25.00% (8 before, 10 after)"


@pytest.mark.parametrize(
    ("gates", "passed"),
    [
        (own(max_kl_divergence=0.25), [True, True]),
        (own(max_kl_divergence=math.nextafter(0.25, 0)), [False, True]),
        (own(max_perplexity_increase=0.25), [True, True]),
        (own(max_perplexity_increase=math.nextafter(0.25, 0)), [True, False]),
        (own(max_kl_divergence=0.1, max_perplexity_increase=0.1), [False, False]),
        (own(max_kl_divergence=0.0), [False, True]),
    ],
)
def test_a_result_passes_up_to_its_limit_and_fails_above(gates: Limits, passed: list[bool]) -> None:
    assert [verdict.passed for verdict in judge(FOUND, gates)] == passed


def test_a_verdict_names_the_limit_in_the_unit_of_the_result() -> None:
    divergence, perplexity = judge(FOUND, own(max_kl_divergence=0.3, max_perplexity_increase=0.3))
    assert divergence.detail == "0.25 nats a token over 120 tokens, at most 0.3 nats is allowed"
    assert perplexity.detail == "+25.00% (8 before, 10 after), at most +30.00% is allowed"
    assert (divergence.blame, perplexity.blame) == (None, None)


def test_a_failed_limit_names_the_fewest_groups_that_cause_the_excess() -> None:
    [failed] = [verdict for verdict in judge(FOUND, own(max_kl_divergence=0.1)) if not verdict.passed]
    assert failed.blame is not None
    assert failed.blame.groups == (DOWN,)  # six tenths are too much, and it causes seven
    assert failed.detail == (
        "found 0.25 nats a token over 120 tokens, at most 0.1 nats is allowed; "
        "70% of the error comes from model.layers.1.mlp.down_proj"
    )


def test_a_model_without_measured_groups_fails_without_a_cause() -> None:
    [failed] = [v for v in judge(replace(FOUND, layers=()), own(max_kl_divergence=0.1)) if not v.passed]
    assert failed.detail == "found 0.25 nats a token over 120 tokens, at most 0.1 nats is allowed"
    assert advice([failed]) == ""


def test_what_is_normal_for_the_format_passes_and_is_named() -> None:
    found = replace(FOUND, kl_divergence=0.24, quantized_perplexity=8 * 1.2)
    divergence, perplexity = judge(found, limits("nvfp4"))
    assert (divergence.passed, divergence.warning, divergence.blame) == (True, False, None)
    assert divergence.detail == "0.24 nats a token over 120 tokens, up to 0.24 nats is normal for NVFP4"
    assert (perplexity.passed, perplexity.warning) == (True, False)


def test_worse_than_normal_is_a_warning_that_names_the_layers_to_blame() -> None:
    divergence, perplexity = judge(FOUND, limits("nvfp4"))
    assert (divergence.passed, divergence.warning) == (True, True)
    assert divergence.detail == (
        "0.25 nats a token over 120 tokens, which is worse than normal for NVFP4: up to 0.24 nats; more than 0.36 nats"
        " fails; 70% of the error comes from model.layers.1.mlp.down_proj"
    )
    assert (perplexity.passed, perplexity.warning) == (True, True)


def test_much_worse_than_normal_fails_and_names_the_layers_to_blame() -> None:
    divergence, perplexity = judge(replace(FOUND, kl_divergence=0.37), limits("nvfp4", max_perplexity_increase=0.5))
    assert (divergence.passed, divergence.warning) == (False, False)
    assert divergence.detail == (
        "found 0.37 nats a token over 120 tokens, at most 0.36 nats is allowed for NVFP4, of which up to 0.24 nats is"
        " normal; 70% of the error comes from model.layers.1.mlp.down_proj"
    )
    assert perplexity.detail == "+25.00% (8 before, 10 after), at most +50.00% is allowed"


def test_a_warning_has_advice_as_a_failure_has() -> None:
    verdicts = judge(FOUND, limits("nvfp4"))
    assert advice(verdicts, ["one", "two"]) == (
        "one; or two; or leave them in BF16, in the recipe: quantization: {exclude: [model.layers.1.mlp.down_proj]}"
    )
    assert advice(judge(FOUND, own(0.3)), ["one", "two"]) == ""


def test_the_meaning_compares_with_bf16_and_fp8_and_the_format() -> None:
    assert meaning(replace(FOUND, kl_divergence=0.36), limits("nvfp4")) == (
        "The most likely next token is the original's for 75% of the tokens."
        " The original, in BF16, has a divergence of 0; in FP8 0.045 nats and a perplexity +2% are normal,"
        " in NVFP4 0.12 nats and a perplexity +10%."
        " This model's divergence is 3 times what is normal for NVFP4."
    )
    assert meaning(FOUND, own()).endswith("in NVFP4 0.12 nats and a perplexity +10%.")


@pytest.mark.parametrize(
    ("excess", "groups", "share"), [(0.6, (DOWN,), 0.7), (0.8, (DOWN, UP), 0.9), (1.0, (DOWN, UP, Q), 1.0)]
)
def test_the_worst_groups_are_blamed_first_until_they_cause_enough(
    excess: float, groups: tuple[GroupError, ...], share: float
) -> None:
    found = blame(FOUND, excess)
    assert found.groups == groups
    assert found.share == pytest.approx(share)


def test_a_group_that_causes_exactly_the_excess_is_enough() -> None:
    halves = (GroupError(("a.q_proj",), 0.5), GroupError(("b.q_proj",), 0.5))
    assert blame(replace(FOUND, layers=(LayerError(0, 1.0, halves),)), 0.5).groups == halves[:1]


def test_groups_without_error_are_blamed_for_nothing() -> None:
    found = blame(replace(FOUND, layers=(LayerError(0, 0.0, (replace(Q, error=0.0),)),)), 0.5)
    assert found.share == 0


@pytest.mark.parametrize(("number", "more"), [(5, ""), (6, " and 1 more"), (8, " and 3 more")])
def test_a_message_names_five_groups_and_counts_the_others(number: int, more: str) -> None:
    groups = tuple(GroupError((f"layers.{place}.o_proj",), 1.0) for place in range(number))
    words = blame(replace(FOUND, layers=(LayerError(0, 1.0, groups),)), 1.0).words()
    named = ", ".join(f"layers.{place}.o_proj" for place in range(5))
    assert words == f"100% of the error comes from {named}{more}"


def test_the_advice_names_each_module_once_for_all_failed_limits() -> None:
    verdicts = judge(FOUND, own(max_kl_divergence=0.1, max_perplexity_increase=0.05))
    assert advice(verdicts) == (
        "leave them in BF16, in the recipe: quantization: "
        "{exclude: [model.layers.1.mlp.down_proj, model.layers.0.mlp.up_proj]}"
    )
    assert advice(judge(FOUND, own())) == ""


def test_the_file_holds_every_figure_and_is_read_again(tmp_path: Path) -> None:
    document = FOUND.document()
    assert document == {
        "tokens": 120,
        "kl_divergence": {"mean": 0.25, "p99": 1.5},
        "perplexity": {"original": 8.0, "quantized": 10.0, "increase": 0.25},
        "agreement": 0.75,
        "layers": [
            {
                "layer": 0,
                "error": 0.3,
                "groups": [
                    {"modules": ["model.layers.0.self_attn.q_proj"], "error": 0.1},
                    {"modules": ["model.layers.0.mlp.up_proj"], "error": 0.2},
                ],
            },
            {"layer": 1, "error": 0.9, "groups": [{"modules": ["model.layers.1.mlp.down_proj"], "error": 0.7}]},
        ],
    }
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(document))
    assert Evaluation.read(file) == FOUND


def test_figures_keep_six_digits() -> None:
    assert replace(FOUND, agreement=0.123456789).document()["agreement"] == 0.123457


@pytest.mark.parametrize("text", ["{}", '{"kl_divergence": 1, "perplexity": {}, "layers": []}'])
def test_a_file_that_is_no_evaluation_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "evaluation.json"
    file.write_text(text)
    with pytest.raises(CheckpointError, match=r"evaluation\.json: expected the result of an evaluation"):
        Evaluation.read(file)


def test_the_report_holds_the_limits_and_the_causes_of_what_failed() -> None:
    gates = own(max_kl_divergence=0.1, max_perplexity_increase=0.3)
    document = as_document(FOUND, gates, judge(FOUND, gates))
    assert document["gates"] == {
        "max_kl_divergence": 0.1,
        "max_perplexity_increase": 0.3,
        "normal_kl_divergence": None,
        "normal_perplexity_increase": None,
    }
    assert document["blame"] == [
        {"gate": "kl_divergence", "share": 0.7, "exclude": ["model.layers.1.mlp.down_proj"]},
    ]
    assert document["tokens"] == 120
