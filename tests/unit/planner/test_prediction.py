"""What is predicted of a recipe, as the file that a bundle keeps beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.errors import OrchestratorError
from orchestrator.planner.constants import calibrations_of
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.prediction import predict
from orchestrator.planner.rule_input import rule_input
from orchestrator.recipe.model import Recipe
from tests.unit.planner.test_bytes_command import KEYS

Change = Callable[[Mapping[str, object]], Recipe]
LLAMA = {"model.repo": "nvidia/Llama-3.3-70B-Instruct-NVFP4", "model.parameters": 70.6e9}


def predicted(recipe: Recipe, catalog: Catalog) -> dict[str, Any]:
    found = predict(model_on_target(recipe, catalog.target(recipe.target)))
    assert found is not None
    return found


def test_a_prediction_says_what_an_estimate_says_and_what_it_was_made_for(catalog: Catalog, changed: Change) -> None:
    found = predicted(changed(LLAMA), catalog)
    assert set(found) >= set(KEYS)
    assert (found["recipe"], found["target"], found["format"], found["gpus"]) == ("healthy", "dgx-spark", "nvfp4", 1)
    assert json.loads(json.dumps(found)) == found
    assert found["fits"]
    assert found["decode_tokens_per_s"]["expected"] == pytest.approx(4.87, abs=0.05)
    assert found["workload"] == {"input_tokens": 3584, "output_tokens": 512, "concurrency": 1}


def test_a_benchmark_s_figure_is_predicted_for_each_concurrency_with_its_prompts_in_between(
    catalog: Catalog, changed: Change
) -> None:
    lengths = {"benchmark.input_tokens": 2048, "benchmark.output_tokens": 128, "benchmark.concurrency": [1, 4]}
    found = predicted(changed(LLAMA | lengths), catalog)
    one, four = (level["output_tokens_per_second"] for level in found["levels"])
    assert [level["concurrency"] for level in found["levels"]] == [1, 4]
    assert 0 < one["low"] < one["expected"] < found["decode_tokens_per_s"]["expected"]
    assert one["expected"] < four["expected"] < 4 * one["expected"]


def test_more_clients_than_the_server_takes_at_once_wait(catalog: Catalog, changed: Change) -> None:
    few = {"serve.max_batch_size": 4, "benchmark.concurrency": [4, 64]}
    four, many = predicted(changed(LLAMA | few), catalog)["levels"]
    assert many["output_tokens_per_second"] == four["output_tokens_per_second"]


def test_nothing_is_predicted_of_a_model_whose_tensors_are_not_known(catalog: Catalog, changed: Change) -> None:
    assert predict(model_on_target(changed({}), catalog.target("dgx-spark"))) is None


def test_a_machine_without_a_gpu_has_sizes_and_no_speeds(catalog: Catalog, changed: Change) -> None:
    found = predicted(changed(LLAMA | {"target": "cpu", "benchmark.concurrency": [1]}), catalog)
    assert found["decode_tokens_per_s"] is None
    assert found["levels"] == []
    assert found["weights_bytes"] == pytest.approx(42.7e9, rel=0.01)


def test_a_calibration_gives_another_version_of_the_constants(
    catalog: Catalog, changed: Change, tmp_path: Path
) -> None:
    shipped = predicted(changed(LLAMA), catalog)["constants"]
    engine = json.loads((Path(__file__).parents[3] / "orchestrator/planner/constants.json").read_text())["engines"]
    engine["trtllm"] |= {"basis": "measured here", "costs": engine["trtllm"]["costs"] | {"weights": 1.1}}
    (tmp_path / "constants.json").write_text(json.dumps({"engines": {"trtllm": engine["trtllm"]}, "sm": 121}))
    with calibrations_of(lambda: tmp_path):
        own = predicted(changed(LLAMA), catalog)["constants"]
    assert own["basis"] == "measured here"
    assert own["version"] != shipped["version"]


def test_the_recipe_s_limits_bound_what_is_predicted(catalog: Catalog, changed: Change) -> None:
    found = predicted(changed(LLAMA | {"serve.max_seq_len": 4096, "serve.max_batch_size": 2}), catalog)
    assert (found["max_context"], found["max_batch"]) == (4096, 2)


def test_a_target_that_nobody_has_is_an_error(catalog: Catalog, changed: Change) -> None:
    with pytest.raises(OrchestratorError, match="nowhere"):
        rule_input(changed(LLAMA | {"target": "nowhere"}), catalog)
