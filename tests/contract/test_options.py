"""Every option of every generated command of NVIDIA's tools exists, with a legal value, in the version of the image.

Checked twice: against the catalogue's own tables, and against what was read of the tools apart from the project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.image import Image, Tool
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.executors.job import Argument, Inside
from orchestrator.recipe.load import RecipeBook
from orchestrator.steps.options import mismatch
from orchestrator.steps.registry import build_steps

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT.parent / "shared" / "data" / "trtllm_cli.json"
VLLM = ROOT.parent / "shared" / "data" / "vllm_cli.json"
CATALOG = Catalog(Project(ROOT))
BOOK = RecipeBook(CATALOG.project.recipes)

EDGE_LLM = ROOT.parent / "shared" / "data" / "edgellm_cli.json"
POSITIONALS: Mapping[Tool, int] = {"trtllm-serve": 1, "trtllm-bench": 1, "vllm": 1, "tensorrt-edgellm-serve": 1}
"""How many arguments are no options: the model, and `throughput`."""


@dataclass(frozen=True)
class Command:
    """One command of a tool, as a recipe generates it."""

    step: str
    image: Image
    tool: Tool
    arguments: tuple[str, ...]

    def options(self, flags: frozenset[str]) -> dict[str, str]:
        """Give each option with its value; `flags` take none."""
        options: dict[str, str] = {}
        rest, positionals = list(self.arguments), 0
        while rest:
            argument = rest.pop(0)
            if not argument.startswith("-"):
                positionals += 1
                continue
            assert argument not in options, f"{self.step}: {argument} is given twice"
            options[argument] = "" if argument in flags else rest.pop(0)
        assert positionals == POSITIONALS.get(self.tool, 0), f"{self.step}: {self.arguments}"
        return options


def commands_of(recipe_name: str) -> Iterator[Command]:
    recipe = BOOK.load(recipe_name).recipe
    for step in build_steps(recipe, CATALOG):
        if step.image is None:
            continue
        image = CATALOG.image(step.image)
        for command in step.commands:
            words = tuple(_text(argument) for argument in command)
            if words[1:2] != ("-m",):
                tool, start = _tool(words, image)
                yield Command(step.name, image, tool, words[start:])


def _text(argument: Argument) -> str:
    return f"{argument.target}/{argument.path}".rstrip("/") if isinstance(argument, Inside) else argument


def _tool(words: tuple[str, ...], image: Image) -> tuple[Tool, int]:
    for tool, entry in image.tools.items():
        head = words[: len(entry.command)]
        patterns = [re.escape(part).replace(r"\{family\}", r"[a-z0-9_]+") for part in entry.command]
        matches = (re.fullmatch(pattern, word) for pattern, word in zip(patterns, head, strict=False))
        if len(head) == len(patterns) and all(matches):
            return tool, len(head)
    pytest.fail(f"no tool of the image starts with {words[:3]}")


@pytest.mark.parametrize("name", BOOK.names)
def test_every_option_is_in_the_catalogues_table_with_a_legal_value(name: str) -> None:
    for command in commands_of(name):
        known = CATALOG.options(command.image, command.tool)
        flags = frozenset(flag for flag, option in known.items() if option.type == "flag")
        for option, value in command.options(flags).items():
            assert option in known, f"{command.step}: {command.tool} {option}"
            if option not in flags:
                typed = {"int": int, "float": float, "str": str}[known[option].type](value)
                assert mismatch(known[option], typed) is None, f"{command.step}: {command.tool} {option} {value}"


@pytest.mark.parametrize("name", BOOK.names)
def test_every_option_was_read_of_the_tool_itself_with_a_legal_value(name: str) -> None:
    if not REFERENCE.is_file():
        pytest.skip(f"what was read of the tools is not here: {REFERENCE}")
    for command in commands_of(name):
        known = reference(command)
        flags = frozenset(flag for flag, option in known.items() if _is_flag(option))
        for option, value in command.options(flags).items():
            assert option in known, f"{command.step}: {command.tool} {option}"
            if option not in flags:
                _check_value(known[option], value, f"{command.step}: {command.tool} {option}")


def test_a_wrong_option_would_be_found() -> None:
    image = CATALOG.image("tensorrt-llm-1.2.1")
    command = Command("engine", image, "trtllm-build", ("--no_such_option", "1"))
    assert not set(command.options(frozenset())) & set(CATALOG.options(image, "trtllm-build"))


def test_the_share_of_the_kv_cache_is_spelled_as_each_tool_spells_it() -> None:
    spelled = {
        (command.tool, option)
        for name in BOOK.names
        for command in commands_of(name)
        for option in command.arguments
        if option.startswith("--kv_cache_free")
    }
    assert spelled == {("trtllm-bench", "--kv_cache_free_gpu_mem_fraction")}


def test_no_measurement_leaves_a_limit_to_trtllm_bench() -> None:
    for name in BOOK.names:
        for command in commands_of(name):
            if command.tool == "trtllm-bench":
                assert {"--max_batch_size", "--max_num_tokens", "--streaming"} <= set(command.arguments)


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(REFERENCE.read_bytes())
    return document


def reference(command: Command) -> dict[str, dict[str, Any]]:
    """Give the options that were read of the tool's version in the image, by every spelling."""
    document, image = _document(), command.image
    with_engines = image.has("trtllm-build")
    match command.tool:
        case "hf_ptq.py":
            entry = document[f"hf_ptq.py@modelopt-{image.modelopt}"]
            choices = {
                "--qformat": entry["qformat_choices"],
                "--kv_cache_qformat": entry["kv_cache_qformat_choices"],
                "--recipe": entry["recipes"],
            }
            options = [{**o, "choices": choices.get(o["flags"][0], o.get("choices"))} for o in entry["options"]]
        case "convert_checkpoint.py":
            options = document["convert_checkpoint.py (llama)"]["options"]
        case "trtllm-serve" if with_engines:
            options = document["trtllm-serve@1.3.0rc3"]["subcommands"]["serve"]["options"]
        case "trtllm-serve":
            options = document["trtllm-serve serve@main-after-TRT-removal"]["options"]
        case "trtllm-bench":
            bench = document["trtllm-bench@1.3.0rc3"]
            options = bench["global"]["trtllm-bench"]["options"] + bench["throughput"]["throughput"]["options"]
        case "vllm":
            document = json.loads(VLLM.read_bytes())
            read = document.get(f"vllm serve@{image.version}", document["vllm serve@0.27.1"])
            options = [option for option in read["options"] if not option.get("positional")]
        case "tensorrt-edgellm-build" | "tensorrt-edgellm-serve":
            read = json.loads(EDGE_LLM.read_bytes())[command.tool]
            options = [option for option in read["options"] if not option.get("positional")]
        case _:
            options = document[command.tool]["options"]
    return {flag: option for option in options for spellings in option["flags"] for flag in spellings.split("/")}


def _is_flag(option: Mapping[str, Any]) -> bool:
    action = str(option.get("action", ""))
    return (
        option.get("type") == "flag"
        or bool(option.get("is_flag"))
        or action == "store_true"
        or "BooleanOptionalAction" in action
    )


def _check_value(option: Mapping[str, Any], value: str, where: str) -> None:
    kinds = {"int": int, "IntRange": int, "float": float}
    try:
        kinds.get(option.get("type", "str"), str)(value)
    except ValueError:
        pytest.fail(f"{where}: {value!r} is no {option['type']}")
    choices = option.get("choices")
    if isinstance(choices, list):
        assert value in [str(choice) for choice in choices], f"{where}: {value!r} is none of {choices}"
