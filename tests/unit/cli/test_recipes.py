"""`recipes`: what is listed, how it looks where there is little room, and what a file that is no recipe costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Shell

BROKEN = {
    "broken": ("a: [", "YAML_INVALID"),
    "odd-key": ("nmae: odd-key\n", "RECIPE_INVALID"),
    "endless": ("extends: endless\n", "RECIPE_EXTENDS"),
    "My Recipe": ("name: mine\n", "RECIPE_UNKNOWN"),
}
NOWHERE = """\
extends: dgx-spark
name: nowhere
description: For a machine that nobody knows
model: {generate: {seed: 0}}
target: moon
quantization: {format: bf16, method: none}
"""


def names(shell: Shell, *arguments: str) -> list[str]:
    return [entry["name"] for entry in shell.json("recipes", *arguments)]


def test_each_recipe_has_its_size_its_fit_and_its_speed(shell: Shell) -> None:
    assert shell("recipes") == 0
    lines = {line.split()[0]: line.split() for line in shell.out.splitlines() if line.strip()}
    assert lines["qwen3-8b-nvfp4"][1:4] == ["yes", "6.4", "GB"]
    assert float(lines["qwen3-8b-nvfp4"][4]) > 10
    assert lines["jamba-1.5-large-bf16"][1] == "refused"
    assert lines["jamba-1.5-large-bf16"][-2:] == ["MODEL_UNSUPPORTED,", "DOES_NOT_FIT"]
    assert lines["llama3-70b-bf16"][1] == "no"
    assert lines["tiny-llama-fp8"][1:5] == ["yes", "3.4", "MB", "-"]  # nothing serves it


def test_the_figures_are_those_of_the_plan(shell: Shell) -> None:
    (entry,) = shell.json("recipes", "qwen3-30b-a3b-nvfp4-published")
    plan = shell.json("plan", "qwen3-30b-a3b-nvfp4-published")
    assert entry["verdict"] == plan["verdict"]
    assert entry["weights"] == plan["estimate"]["weights"]
    assert entry["decode"] == plan["estimate"]["decode"]


@pytest.mark.parametrize(
    ("columns", "heads"), [(60, ("recipe", "fits", "tok/s")), (72, ("recipe", "fits", "size", "tok/s"))]
)
def test_a_narrow_terminal_leaves_columns_out_and_breaks_no_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, columns: int, heads: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    recipes = names(shell)
    assert shell("recipes") == 0
    table, _, left_out = shell.out.partition("\n\n")
    assert max(map(len, table.splitlines())) <= columns
    assert len(table.splitlines()) == len(recipes) + 2
    assert tuple(table.splitlines()[0].split()) == heads
    assert left_out.startswith("not shown, the terminal is too narrow: ")
    assert "reason" in left_out


def test_where_there_is_room_nothing_is_left_out(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert shell("recipes") == 0
    heads = ["recipe", "fits", "size", "tok/s", "format", "target", "method", "reason"]
    assert shell.out.splitlines()[0].split() == heads
    assert "not shown" not in shell.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tiny"], ["tiny-llama-auto", "tiny-llama-fp8", "tiny-llama-nvfp4", "tiny-llama-w4a16-nvfp4"]),
        (["TINY", "--format", "fp8"], ["tiny-llama-fp8"]),
        (["eagle-3 235b"], ["qwen3-235b-a22b-nvfp4-published-eagle3"]),
        (["eagle-3 236b"], []),
        (["--model", "openai/gpt-oss-120b"], ["gpt-oss-120b-mxfp4", "gpt-oss-120b-mxfp4-eagle3"]),
        (
            ["--model", "phi4mm"],
            ["phi-4-multimodal-bf16", "phi-4-multimodal-fp8-published", "phi-4-multimodal-nvfp4-published"],
        ),
        (
            ["--target", "dgx-spark-x2"],
            [
                "minimax-m2.7-nvfp4-published",
                "qwen3-235b-a22b-nvfp4-published",
                "qwen3-235b-a22b-nvfp4-published-eagle3",
            ],
        ),
        (["--model", "llama-3.3-70b", "--format", "bf16"], ["llama3-70b-bf16"]),
        (["--model", "llama-3.3-70b", "--format", "bf16", "--fits"], []),
        (["jamba", "--fits"], ["jamba-1.5-mini-nvfp4"]),
    ],
)
def test_a_list_can_be_filtered(shell: Shell, arguments: list[str], expected: list[str]) -> None:
    assert names(shell, *arguments) == expected


def test_an_empty_list_says_so(shell: Shell) -> None:
    assert shell("recipes", "no such words") == 0
    assert shell.out == f"none of {len(names(shell))} recipes matches\n"


def test_a_target_that_nobody_knows_is_an_error(shell: Shell) -> None:
    assert shell.error("recipes", "--target", "dgx-sparc")["code"] == "TARGET_UNKNOWN"


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_recipe_costs_one_line(shell: Shell, name: str) -> None:
    before = names(shell)
    text, code = BROKEN[name]
    shell.write_recipe(name, text)
    assert shell("recipes") == 3
    assert [line.partition(": ")[0] for line in shell.err.splitlines()] == [name]
    assert f"error[{code}]" in shell.err
    assert all(known in shell.out for known in before)


def test_several_are_told_with_the_worst_status_and_to_programs_as_well(shell: Shell) -> None:
    for name, (text, _) in BROKEN.items():
        shell.write_recipe(name, text)
    shell.write_recipe("nowhere", NOWHERE)
    found = {entry["name"]: entry for entry in shell.json("recipes", status=3)}
    codes = {name: found[name]["error"]["code"] for name in (*BROKEN, "nowhere")}
    assert codes == {name: code for name, (_, code) in BROKEN.items()} | {"nowhere": "TARGET_UNKNOWN"}
    assert "error" not in found["qwen3-8b-fp8"]


@pytest.mark.parametrize("command", [("validate",), ("build", "--dry-run", "--all")])
def test_no_command_for_all_recipes_hides_one_that_is_broken(shell: Shell, command: tuple[str, ...]) -> None:
    for file in Path(shell.project / "recipes").glob("*.yaml"):
        if not file.name.startswith("tiny"):
            file.unlink()
    shell.write_recipe("broken", BROKEN["broken"][0])
    shell.write_recipe("nowhere", NOWHERE)
    assert shell(*command) == 3
    marked = [line.split()[1].rstrip(":") for line in shell.out.splitlines() if line.startswith("✗")]
    assert marked == ["broken", "nowhere"]
    assert "error[YAML_INVALID]" in shell.err
    assert "error[TARGET_UNKNOWN]" in shell.err
    assert sum(line.startswith("✓ tiny") for line in shell.out.splitlines()) == 4
