"""`quality` with a faked comparison: the table, the verdict, the recipe that it changes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from orchestrator.cli.commands.quality import figure, verdict
from orchestrator.quantization.candidate_findings import Findings, LayerFindings, Sums
from orchestrator.quantization.candidates import parse
from tests.support.fake import FakeRun
from tests.unit.cli.conftest import Shell

RECIPE = "tiny-llama-nvfp4"
HERE = ("--executor", "process")
DIVERGENCES = {"max": 0.252, "mse": 0.222, "four_over_six": 0.219, "weighted": 0.107, "weighted+gptq": 0.076}
TEXT = """\
schema_version: 1
name: mine
description: A model of mine. # said by hand
extends: cpu
model: {generate: {seed: 0}}
quantization: # what we chose
  format: nvfp4
  method: onepass
  scale_search: max # as ModelOpt
  calibration: {dataset: prose.txt, samples: 4}
checks:
  held_out: {dataset: random, samples: 8, sequence_length: 32}
"""


def compared(run: FakeRun) -> None:
    """Leave what a comparison of 8 samples would."""
    candidates = parse(run.argv[run.argv.index("--try") + 1])
    tokens = np.full(8, 31)
    spread = np.linspace(0.9, 1.1, 8)
    sums = {
        one.name: Sums(
            31 * DIVERGENCES[one.name] * spread, np.full(8, 25.0), 31 * (2.2 + DIVERGENCES[one.name] * spread)
        )
        for one in candidates
    }
    none = {one.name: 0 for one in candidates}
    layer = LayerFindings(0, {one.name: DIVERGENCES[one.name] for one in candidates}, {**none, "weighted": 3})
    found = Findings(candidates, tokens, 31 * np.full(8, 2.2), sums, (layer,))
    (run.output / "candidates.json").write_text(json.dumps(found.document()))


def written(run: FakeRun) -> None:
    """Leave calibration text."""
    (run.output / "train.jsonl").write_text('{"text": "One."}')


@pytest.fixture
def mine(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shell.project)
    more = {"candidates": compared, "calibration": written}
    shell.executor.commands = {**shell.executor.commands, **more}
    (shell.project / "prose.txt").write_text("One.\n\nTwo.\n\nThree.\n\nFour.\n")
    text = TEXT.replace("extends: cpu\n", "target: cpu\nimage: tensorrt-llm-1.3.0rc24\n")
    shell.write_recipe("mine", text)
    return shell.project / "recipes" / "mine.yaml"


def test_the_table_marks_the_best_within_sixty_columns(
    shell: Shell, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mine.is_file()
    monkeypatch.setenv("COLUMNS", "60")
    assert shell("quality", "mine", "--try", "max,mse,four_over_six,weighted,weighted+gptq", *HERE) == 0, shell.err
    lines = shell.out.splitlines()
    assert max(map(len, lines)) <= 60
    (best,) = [line for line in lines if line.startswith("best ")]
    assert best.split() == ["best", "weighted+gptq", "0.076", "±", "0.004", "9.738", "80.6%"]
    assert any(line.split()[:2] == ["bf16", "0"] for line in lines)
    assert "best: weighted+gptq" in lines
    assert "weighted: 3 modules saw too few tokens" in " ".join(shell.out.split())


def test_a_second_call_is_reused_and_other_names_are_not(shell: Shell, mine: Path) -> None:
    assert mine.is_file()
    first = shell.json("quality", "mine", "--try", "max,weighted", *HERE)
    again = shell.json("quality", "mine", "--try", "max,weighted", *HERE)
    assert (first["reused"], again["reused"], first["key"]) == (False, True, again["key"])
    assert shell.json("quality", "mine", "--try", "max,mse", *HERE)["key"] != first["key"]


def test_the_best_is_written_with_the_comments_and_taken_back(shell: Shell, mine: Path) -> None:
    before = mine.read_text()
    options = ("--try", "max,weighted+gptq", *HERE)
    found = shell.json("quality", "mine", *options)
    assert found["patch"] == {"quantization.scale_search": "weighted", "quantization.rounding": "gptq"}
    assert mine.read_text() == before
    assert f"{shell.project} --store" in shell.err
    assert "quality mine --try max,weighted+gptq --executor process --write" in shell.err
    assert shell("quality", "mine", *options, "--write") == 0
    written = mine.read_text()
    assert 'scale_search: "weighted" # as ModelOpt' in written
    assert {line for line in before.splitlines() if "#" in line and "scale_search" not in line} <= set(
        written.splitlines()
    )
    changed = shell.json("show", "mine")["recipe"]["quantization"]
    assert (changed["scale_search"], changed["rounding"]) == ("weighted", "gptq")
    assert shell("quality", "mine", *options, "--write") == 0
    assert "has it already" in shell.err
    assert shell("quality", "mine", "--undo") == 0
    assert mine.read_text() == before


def test_a_recipe_that_rounded_by_gptq_is_set_to_nearest(shell: Shell, mine: Path) -> None:
    shell.write_recipe(
        "mine", mine.read_text().replace("scale_search: max", "rounding: gptq\n  scale_search: weighted")
    )
    assert shell("quality", "mine", "--try", "max,weighted", "--write", *HERE) == 0, shell.err
    assert shell.json("show", "mine")["recipe"]["quantization"]["rounding"] == "nearest"


def test_a_recipe_of_the_tool_is_refused_before_anything_runs(shell: Shell, mine: Path) -> None:
    mine.with_name(f"{RECIPE}.yaml").unlink()
    error = shell.error("quality", RECIPE, "--try", "max,mse", "--write")
    assert error["code"] == "RECIPE_UNKNOWN"
    assert f"copy it to {mine.parent} first" in error["hint"]
    assert not (shell.store / "runs").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("mine", "--set", "quantization.format=fp8"), "RECIPE_INVALID", "max, weighted: ways to encode w4a16_nvfp4"),
        (("mine", "--set", "quantization.method=modelopt"), "RECIPE_INVALID", "method modelopt"),
        ((RECIPE, "--try", "max+gptq"), "RECIPE_INVALID", "tokens from a seed are none"),
        (("tiny-llama-w4a16-nvfp4",), "RECIPE_INVALID", "checks.held_out is missing"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    shell: Shell, mine: Path, options: tuple[str, ...], code: str, words: str
) -> None:
    assert mine.is_file()
    error = shell.error("quality", "--try", "max,weighted", *options)
    assert error["code"] == code
    assert words in error["message"]
    assert not (shell.store / "runs").exists()


def test_unknown_names_and_two_wishes_at_once_are_wrong_usage(shell: Shell, mine: Path) -> None:
    assert mine.is_file()
    assert shell("quality", "mine", "--try", "max,best,mse+awq") == 2
    assert "'best', 'mse+awq'; expected max, mse, four_over_six, weighted" in " ".join(shell.err.split())
    assert shell("quality", "mine", "--write", "--undo") == 2


def test_a_comparison_that_does_not_fit_is_refused(shell: Shell, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mine.is_file()
    monkeypatch.setattr("orchestrator.planner.candidates.ONEPASS_BYTES", 10**15)
    error = shell.error("quality", "mine", "--try", "max,weighted+gptq")
    assert error["code"] == "REFUSED"
    assert "comparing needs at least" in error["message"]
    assert "those with +gptq apart" in f"{error}"
    assert shell("quality", "mine", "--dry-run") == 4


def test_a_dry_run_tells_memory_disk_and_time_and_runs_nothing(shell: Shell) -> None:
    held_out = "checks.held_out={dataset: wikitext, samples: 64, sequence_length: 512}"
    few, more = (
        shell.json("quality", "llama3-70b-nvfp4", "--set", held_out, "--dry-run", "--try", names)
        for names in ("max", "max,mse,weighted,weighted+gptq")
    )
    assert more["memory"]["bytes"] > few["memory"]["bytes"] + 3 * 64 * 512 * 8192 * 2
    assert more["disk"] == few["disk"] + 3 * 2 * 64 * 512 * 8192 * 2
    assert 0 < few["seconds"]["least"] < more["seconds"]["least"] < more["seconds"]["most"]
    assert "products of every two inputs" in more["memory"]["basis"]
    assert not (shell.store / "runs").exists()


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [(0.1074, 0.0056, "0.107 ± 0.006"), (0.00027, 0.00003, "0.00027 ± 0.00003"), (1.5, 0.25, "1.500 ± 0.250")],
)
def test_a_figure_has_the_digits_that_its_interval_leaves(mean: float, half: float, words: str) -> None:
    assert figure({"mean": mean, "low": mean - half, "high": mean + half}) == words
    assert figure({"mean": mean, "low": None, "high": None}) == f"{mean:.3g}"


def test_the_verdict_names_ties() -> None:
    row = {"divergence": {"low": 0.1}}
    tie = {"best": "mse", "lowest": "weighted", "tied": ["mse", "weighted"], "candidates": [row]}
    assert verdict(tie) == "best: mse, which takes the least to quantize; not significantly different: weighted"
    unsure = {**tie, "tied": ["mse"], "candidates": [{"divergence": {"low": None}}]}
    assert "fewer than 3 samples" in verdict(unsure)
