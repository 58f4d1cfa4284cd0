"""Does one walk find of each candidate what a build with that search and its comparison find?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.payloads import generate
from tests.support.killed import KILLS, kill_ten_times
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

CASES = ("inputs of 4 bits, cache of 8", "smoothed", "weights alone", "experts", "experts in one tensor")
RECIPE = """\
schema_version: 1
name: mine
description: A model of mine.
model: {generate: {hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, vocab_size: 320}}
target: cpu
image: tensorrt-llm-1.3.0rc24
quantization:
  format: nvfp4 # four bits
  method: onepass
  kv_cache: fp8
  resources: {threads: 1}
  calibration: {dataset: prose.txt, samples: 12, sequence_length: 32}
checks:
  held_out: {dataset: other.txt, samples: 8, sequence_length: 32}
benchmark: null
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("candidates")
    find_environment().run(Path(__file__).with_name("candidates_run.py"), folder)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_walk_finds_what_quantizing_and_comparing_find(results: dict[str, Any], case: str) -> None:
    walk, apart = results[case]["walk"], results[case]["apart"]
    assert [row["name"] for row in walk["candidates"]] == list(apart)
    for row in walk["candidates"]:
        alone = apart[row["name"]]
        assert row["divergence"]["mean"] == pytest.approx(alone["kl_divergence"]["mean"], rel=1e-5)
        assert row["perplexity"] == pytest.approx(alone["perplexity"]["quantized"], rel=1e-5)
        assert walk["original"]["perplexity"] == pytest.approx(alone["perplexity"]["original"], rel=1e-5)
        assert row["agreement"]["mean"] == pytest.approx(alone["agreement"], rel=1e-5)
        assert walk["tokens"] == alone["tokens"]
        errors = [layer["errors"][row["name"]] for layer in walk["layers"]]
        assert errors == pytest.approx([layer["error"] for layer in alone["layers"]], rel=1e-5)


def test_smoothing_changes_what_all_candidates_lose(results: dict[str, Any]) -> None:
    smoothed, plain = (results[case]["walk"]["candidates"] for case in ("smoothed", CASES[0]))
    assert all(
        one["divergence"]["mean"] != other["divergence"]["mean"] for one, other in zip(smoothed, plain, strict=True)
    )


def test_candidates_differ_and_the_lowest_is_named(results: dict[str, Any]) -> None:
    for case in CASES:
        walk = results[case]["walk"]
        means = {row["name"]: row["divergence"]["mean"] for row in walk["candidates"]}
        assert len(set(means.values())) == len(means)
        assert walk["lowest"] == min(means, key=lambda name: means[name])


@pytest.mark.parametrize("case", ["experts", "experts in one tensor"])
def test_experts_that_saw_too_few_tokens_are_counted(results: dict[str, Any], case: str) -> None:
    found = results[case]
    counts = {row["name"]: row["as_mse"] for row in found["walk"]["candidates"]}
    assert counts["max"] == 0
    assert counts["weighted"] == found["apart"]["weighted"]["as_mse"] > 0


def test_the_command_finds_what_a_build_finds_and_writes_the_best(tmp_path: Path) -> None:
    project, environment = tmp_path / "project", find_environment()
    (project / "recipes").mkdir(parents=True)
    recipe = project / "recipes" / "mine.yaml"
    recipe.write_text(RECIPE)
    for name, word in (("prose", "prose"), ("other", "other words")):
        text = "\n\n".join(f"{number}: {word} {number * number}. " * 6 for number in range(20))
        (project / f"{name}.txt").write_text(text)
    places = ["--project", f"{project}", "--store", f"{tmp_path / 'store'}", "--dist", f"{tmp_path / 'dist'}"]

    def run(*words: str) -> Any:  # noqa: ANN401 - a command's document
        command = ["-m", "orchestrator.cli.main", *places, *words, "--executor", "process", "--json"]
        return json.loads(environment.run(*command))

    ways = ("quality", "mine", "--try", "max,weighted+gptq")
    found = run(*ways)
    assert run(*ways, "--write")["reused"]
    chosen = {"max": "max", "weighted+gptq": "weighted"}[found["best"]]
    values = ["--set", f"quantization.scale_search={chosen}"]
    values += ["--set", f"quantization.rounding={'nearest' if chosen == 'max' else 'gptq'}"]
    run("build", "mine", "--until", "evaluate", *values)
    (compared,) = (tmp_path / "store").glob("**/evaluation.json")
    alone = json.loads(compared.read_text())
    (row,) = [row for row in found["candidates"] if row["name"] == found["best"]]
    assert row["divergence"]["mean"] == pytest.approx(alone["kl_divergence"]["mean"], rel=1e-5)
    assert found["seconds"].keys() >= {"max", "weighted+gptq", "round", "calibrate"}
    assert "format: nvfp4 # four bits" in recipe.read_text()
    assert ('scale_search: "weighted"' in recipe.read_text()) == (chosen == "weighted")


def test_ten_random_kills_change_no_byte(tmp_path: Path) -> None:
    sizes = ("--hidden-size", "64", "--layers", "4", "--vocab-size", "300")
    generate.main(["--output", str(tmp_path / "model"), *sizes])
    options = ["--checkpoint", str(tmp_path / "model"), "--format", "nvfp4", "--try", "max,weighted"]
    options += ["--samples", "4", "--sequence-length", "24", "--device", "cpu"]
    options += ["--calibration-samples", "4", "--calibration-sequence-length", "24"]
    found = kill_ten_times("candidates", tmp_path, options, find_environment())
    assert len(found.done) == KILLS, found.asked
    assert any(found.done), found.asked
    assert found.differing == [], found.asked
