"""The tables of vLLM's options against what its own parsers said, where that is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Option

ROOT = Path(__file__).resolve().parents[3]
FACTS = ROOT.parent / "shared" / "data" / "vllm_cli.json"
READ = ("0.27.1", "0.33.0")
BETWEEN = "vllm-serve-0.29-0.31"

with_facts = pytest.mark.skipif(not FACTS.is_file(), reason=f"no {FACTS} on this machine")


def table(name: str) -> dict[str, Option]:
    """Give a table by first spelling."""
    rows = json.loads((ROOT / "docker" / "tools" / f"{name}.json").read_text())
    return {row["flags"][0]: Option.model_validate_json(json.dumps(row)) for row in rows}


def read(version: str) -> list[dict[str, Any]]:
    options: list[dict[str, Any]] = json.loads(FACTS.read_text())[f"vllm serve@{version}"]["options"]
    return [option for option in options if not option.get("positional")]


@with_facts
@pytest.mark.parametrize("version", READ)
def test_a_table_has_just_the_options_of_its_version_with_their_types_and_values(version: str) -> None:
    ours = table(f"vllm-serve-{version}")
    assert set(ours) == {option["flags"][0] for option in read(version)}
    for option in read(version):
        own, kind = ours[option["flags"][0]], option["type"]
        assert set(option["flags"]) <= set(own.flags)
        assert own.type == (kind if kind in ("flag", "int", "float") else "str")
        choices = {str(choice) for choice in option.get("choices") or () if choice is not None}
        assert set(own.choices) == choices


@with_facts
def test_the_newer_version_has_the_older_opposites_that_it_still_parses() -> None:
    kept = json.loads(FACTS.read_text())["diff 0.27.1 -> 0.33.0"]
    (spellings,) = (value for key, value in kept.items() if key.startswith("removed_spelling"))
    flags = {flag for option in table("vllm-serve-0.33.0").values() for flag in option.flags}
    gone = {f"--no-{name.removeprefix('--')}" for name in kept["removed"]}
    assert set(spellings) - gone <= flags


def test_versions_between_have_what_both_have() -> None:
    older, newer, between = (table(name) for name in ("vllm-serve-0.27.1", "vllm-serve-0.33.0", BETWEEN))
    assert set(between) == set(older) & {flag for option in newer.values() for flag in option.flags}
    for name, option in between.items():
        there = next(each for each in newer.values() if name in each.flags)
        assert set(option.flags) == set(older[name].flags) & set(there.flags)
        for both in (older[name], there):
            assert not both.choices or set(option.choices) <= set(both.choices)
