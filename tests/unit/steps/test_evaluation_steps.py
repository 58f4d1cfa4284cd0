"""When both models are compared, and on which text."""

from __future__ import annotations

import pytest

from orchestrator.errors import RecipeInvalidError
from orchestrator.recipe.load import RecipeBook
from orchestrator.steps.registry import build_steps
from orchestrator.steps.sources import sources
from orchestrator.steps.step import Step
from tests.unit.steps.recipes import CATALOG, words

BOOK = RecipeBook(CATALOG.project.recipes)
ONEPASS = (
    "quantization.method=onepass",
    "model.repo=Qwen/Qwen3-8B",
    "checks.held_out.dataset={}",
    "quantization.calibration.dataset={}",
)


def _steps(held_out: str, calibration: str, *more: str) -> dict[str, Step]:
    overrides = [line.format(held_out if "held" in line else calibration) for line in ONEPASS]
    recipe = BOOK.load("qwen3-8b-nvfp4", (*overrides, *more)).recipe
    return {step.name: step for step in build_steps(recipe, CATALOG)}


def test_a_data_set_of_its_own_is_fetched_and_what_calibration_took_is_left_out() -> None:
    steps = _steps("wikitext", "cnn_dailymail")
    order = list(steps)
    assert order.index("held-out") < order.index("evaluate") < order.index("verify")
    assert "Salesforce/wikitext" in words(steps["download-held-out"].argv)
    assert "abisee/cnn_dailymail" in words(steps["download-calibration"].argv)
    assert "--without /calibration/train.jsonl" in " ".join(words(steps["held-out"].argv))
    assert "--text /held_out/train.jsonl" in " ".join(words(steps["evaluate"].argv))
    assert "--evaluation /evaluation/evaluation.json" in " ".join(words(steps["verify"].argv))


def test_one_data_set_for_both_is_fetched_once() -> None:
    steps = _steps("cnn_dailymail", "cnn_dailymail")
    assert "download-held-out" not in steps
    assert [one.step for one in steps["held-out"].inputs] == ["download-calibration", "calibration"]


def test_another_revision_is_fetched_and_locked_apart() -> None:
    overrides = [line.format("cnn_dailymail") for line in ONEPASS]
    recipe = BOOK.load("qwen3-8b-nvfp4", (*overrides, "checks.held_out.revision=other")).recipe
    found = sources(recipe)
    assert found["download-held-out"].revision == "other"
    assert found["download-calibration"].revision == "main"


def test_tokens_from_a_seed_need_no_text() -> None:
    steps = _steps("random", "cnn_dailymail")
    assert "held-out" not in steps
    assert "--text" not in words(steps["evaluate"].argv)


def test_demands_are_the_checks_and_not_the_comparisons() -> None:
    strict = _steps("random", "random", "checks.max_kl_divergence=0.01", "checks.max_perplexity_increase=0.02")
    lax = _steps("random", "random")
    assert strict["evaluate"] == lax["evaluate"]
    line = " ".join(words(strict["verify"].argv))
    assert "--max-kl-divergence 0.01 --max-perplexity-increase 0.02" in line


def test_a_recipe_that_names_no_text_compares_nothing() -> None:
    recipe = BOOK.load("tiny-llama-w4a16-nvfp4").recipe
    assert "evaluate" not in {step.name for step in build_steps(recipe, CATALOG)}


@pytest.mark.parametrize(
    ("override", "reason"),
    [("checks.max_kl_divergence=0.1", "held_out, which is missing"), ("checks.held_out={dataset: random}", "only the")],
)
def test_a_demand_without_text_or_original_is_refused(override: str, reason: str) -> None:
    with pytest.raises(RecipeInvalidError, match=reason):
        BOOK.load("llama3-70b-nvfp4-published", (override,))


@pytest.mark.parametrize(
    ("override", "words_of_it"),
    [
        ("{bits_per_weight: 5.5}", "--bits-per-weight 5.5"),
        ("{bits_per_weight: null, bytes: 6000000000}", "--budget-bytes 6000000000"),
    ],
)
def test_a_budget_reaches_the_quantizer(override: str, words_of_it: str) -> None:
    recipe = BOOK.load("qwen3-8b-auto", (f"quantization.budget={override}",)).recipe
    steps = {step.name: step for step in build_steps(recipe, CATALOG)}
    assert f"--format auto --scale-search weighted --kv-cache fp8 {words_of_it}" in _without_calibration(
        steps["quantize"]
    )


def _without_calibration(step: Step) -> str:
    line = " ".join(words(step.argv))
    calibration = line[line.index("--samples") : line.index("--scratch /scratch") + len("--scratch /scratch ")]
    return line.replace(calibration, "")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("quantization.format=nvfp4",), "no other format has one"),
        (("quantization.budget=null",), "auto needs a budget"),
        (("quantization.budget={bits_per_weight: 5, bytes: 7}",), "either bits_per_weight or bytes"),
        (("quantization.method=modelopt", "quantization.scale_search=max"), "onepass alone"),
    ],
)
def test_a_budget_and_auto_go_together(overrides: tuple[str, ...], reason: str) -> None:
    with pytest.raises(RecipeInvalidError, match=reason):
        BOOK.load("qwen3-8b-auto", overrides)


def test_other_ways_are_compared_after_the_original_and_before_the_checks() -> None:
    steps = _steps("wikitext", "cnn_dailymail", "checks.compare=[max]", "quantization.scale_search=weighted")
    order = list(steps)
    assert order.index("evaluate") < order.index("candidates") < order.index("verify")
    line = " ".join(words(steps["candidates"].argv))
    assert "--try weighted,max --format nvfp4" in line
    assert "--text /held_out/train.jsonl" in line
    assert "--calibration /calibration/train.jsonl" in line
    assert "--candidates /candidates/candidates.json --own weighted" in " ".join(words(steps["verify"].argv))
    assert [one.step for one in steps["verify"].inputs][-2:] == ["evaluate", "candidates"]


def test_without_other_ways_every_step_is_as_it_was() -> None:
    plain, empty = (_steps("wikitext", "cnn_dailymail", *more) for more in ((), ("checks.compare=[]",)))
    assert plain == empty
    assert "candidates" not in plain


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("checks.compare=[max]",), "checks.compare: max is what the recipe itself does"),
        (("checks.compare=[mse]", "quantization.format=fp8"), "the recipe has fp8 of method onepass"),
        (("checks.compare=[mse]", "quantization.method=modelopt"), "the recipe has nvfp4 of method modelopt"),
        (("checks.compare=[mse]", "quantization.layer_inputs=quantized"), "ways are compared on one calibration"),
    ],
)
def test_what_cannot_be_compared_is_refused(overrides: tuple[str, ...], reason: str) -> None:
    with pytest.raises(RecipeInvalidError, match=reason) as caught:
        _steps("wikitext", "cnn_dailymail", *overrides)
    assert caught.value.hint


def test_ways_need_text_to_be_compared_on() -> None:
    with pytest.raises(RecipeInvalidError, match="compare needs text to compare on"):
        BOOK.load("qwen3-8b-nvfp4", ("checks.compare=[max]",))
