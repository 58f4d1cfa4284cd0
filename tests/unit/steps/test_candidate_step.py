"""What the comparison of candidates reads, and which options it gets."""

from __future__ import annotations

import pytest

from orchestrator.errors import RecipeInvalidError
from orchestrator.quantization.candidates import parse
from orchestrator.recipe.load import RecipeBook
from orchestrator.steps.candidates import build
from orchestrator.steps.step import Step
from tests.unit.steps.recipes import CATALOG, words

BOOK = RecipeBook(CATALOG.project.recipes)
HELD_OUT = "checks.held_out={dataset: wikitext, samples: 32}"


def _step(recipe: str, names: str, *overrides: str) -> Step:
    return build(BOOK.load(recipe, overrides).recipe, CATALOG, parse(names))


def test_a_calibrated_recipe_brings_its_text_format_and_exclusions() -> None:
    step = _step("llama3-70b-nvfp4", "max,weighted+gptq", "quantization.exclude=['*.o_proj']", HELD_OUT)
    line = " ".join(words(step.argv))
    assert "--try max,weighted+gptq --format nvfp4 --kv-cache fp8 --samples 32" in line
    assert "--calibration /calibration/train.jsonl" in line
    assert "--text /held_out/train.jsonl" in line
    assert "--calibration-samples 512 --calibration-sequence-length 512" in line
    assert line.endswith("--exclude *.o_proj")
    assert [one.step for one in step.inputs] == ["download", "calibration", "held-out"]


def test_weights_alone_need_no_calibration() -> None:
    override = "checks.held_out={dataset: random}"
    step = _step("tiny-llama-w4a16-nvfp4", "max,mse", override, "quantization.scale_search=mse")
    assert [one.step for one in step.inputs] == ["generate"]
    assert "--calibration-samples" not in words(step.argv)
    weighted = _step("tiny-llama-w4a16-nvfp4", "max,weighted", override, "quantization.scale_search=weighted")
    assert "--calibration-samples" in words(weighted.argv)


def test_it_runs_where_the_comparison_with_the_original_runs_and_continues_after_a_kill() -> None:
    step = _step("llama3-70b-nvfp4", "max", HELD_OUT)
    assert (step.resumable, step.network, step.gpus) == (True, False, 1)
    assert "/scratch" in words(step.argv)
    assert step.image == BOOK.load("llama3-70b-nvfp4").recipe.image


def test_ways_are_not_compared_on_inputs_of_their_own() -> None:
    with pytest.raises(RecipeInvalidError, match="ways are compared on one calibration") as caught:
        _step("llama3-70b-nvfp4", "max", HELD_OUT, "quantization.layer_inputs=quantized")
    assert "--set quantization.layer_inputs=original" in caught.value.hint


def test_without_held_out_text_nothing_can_be_compared() -> None:
    with pytest.raises(RecipeInvalidError, match=r"checks\.held_out is missing") as caught:
        _step("tiny-llama-w4a16-nvfp4", "max,mse")
    assert "--set 'checks.held_out={dataset: wikitext}'" in caught.value.hint
