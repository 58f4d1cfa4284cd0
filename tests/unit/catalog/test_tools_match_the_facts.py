"""The tables of options against the options that were read from the tools' own sources, where those are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Option

ROOT = Path(__file__).resolve().parents[3]
FACTS = ROOT.parent / "shared" / "data" / "trtllm_cli.json"

pytestmark = pytest.mark.skipif(not FACTS.is_file(), reason=f"no {FACTS} on this machine")


def facts() -> dict[str, list[dict[str, Any]]]:
    """Give the options of each tool as they were read."""
    read = json.loads(FACTS.read_text())
    bench = read["trtllm-bench@1.3.0rc3"]
    groups = bench["global"]["trtllm-bench"]["options"] + bench["throughput"]["throughput"]["options"]
    return {
        "trtllm-build": read["trtllm-build"]["options"],
        "convert_checkpoint-llama": read["convert_checkpoint.py (llama)"]["options"],
        "quantize": read["quantize.py"]["options"],
        "trtllm-serve-1.3.0rc3": read["trtllm-serve@1.3.0rc3"]["subcommands"]["serve"]["options"],
        "trtllm-serve-2026-07": read["trtllm-serve serve@main-after-TRT-removal"]["options"],
        "trtllm-bench-1.3.0rc3": groups,
        "hf_ptq-0.45.0": read["hf_ptq.py@modelopt-0.45.0"]["options"],
        "hf_ptq-0.46.0": read["hf_ptq.py@modelopt-0.46.0"]["options"],
    }


TABLES = [
    "trtllm-build",
    "convert_checkpoint-llama",
    "quantize",
    "trtllm-serve-1.3.0rc3",
    "trtllm-serve-2026-07",
    "trtllm-bench-1.3.0rc3",
    "hf_ptq-0.45.0",
    "hf_ptq-0.46.0",
]


def table(name: str) -> dict[str, Option]:
    """Give our table by first spelling."""
    rows = json.loads((ROOT / "docker" / "tools" / f"{name}.json").read_text())
    return {row["flags"][0]: Option.model_validate_json(json.dumps(row)) for row in rows}


def spellings(option: dict[str, Any]) -> list[str]:
    """Give every spelling; click writes an option and its opposite as one."""
    return [part for flag in option["flags"] for part in flag.split("/")]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_just_the_options_of_its_tool(name: str) -> None:
    assert set(table(name)) == {spellings(option)[0] for option in facts()[name]}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_spelling(name: str) -> None:
    ours = table(name)
    for option in facts()[name]:
        assert set(spellings(option)) <= set(ours[spellings(option)[0]].flags)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_legal_values(name: str) -> None:
    ours = table(name)
    for option in facts()[name]:
        choices = option.get("choices")
        if isinstance(choices, list):
            assert {str(choice) for choice in choices if choice is not None} <= set(ours[option["flags"][0]].choices)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_types(name: str) -> None:
    ours = table(name)
    for option in facts()[name]:
        kind = ours[spellings(option)[0]].type
        if option.get("type") in ("int", "float"):
            assert kind == option["type"]
        if option.get("is_flag") or option.get("action") == "store_true":
            assert kind == "flag"


@pytest.mark.parametrize("version", ["0.45.0", "0.46.0"])
def test_formats_and_recipes_of_modelopt_are_legal_values(version: str) -> None:
    ours, read = table(f"hf_ptq-{version}"), json.loads(FACTS.read_text())[f"hf_ptq.py@modelopt-{version}"]
    assert set(read["qformat_choices"]) <= set(ours["--qformat"].choices)
    assert ours["--kv_cache_qformat"].choices == tuple(read["kv_cache_qformat_choices"])
    assert ours["--recipe"].choices == tuple(read["recipes"])


def test_the_newer_benchmark_differs_by_what_its_documentation_shows() -> None:
    old, new = table("trtllm-bench-1.3.0rc3"), table("trtllm-bench-2026-07")
    assert set(new) - set(old) == {"--telemetry"}
    assert new["--backend"].choices == ("pytorch", "_autodeploy")
