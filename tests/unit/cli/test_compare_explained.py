"""The page that explains the sum says what the tool prints; speeds may drift a little before the page must follow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Shell

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "planning.md"
TEXT = PAGE.read_text(encoding="utf-8")
LABELS = {"BF16": "bf16", "FP8": "fp8", "NVFP4": "nvfp4", "W4A16 NVFP4": "w4a16_nvfp4", "MXFP4": "mxfp4"}
BITS = {"BF16": 16, "FP8": 8, "NVFP4": 4 + 8 / 16, "MXFP4": 4 + 8 / 32}


@pytest.fixture
def rows(shell: Shell) -> dict[str, dict[str, Any]]:
    return {row["format"]: row for row in shell.json("compare", "llama3-70b")["formats"]}


@pytest.mark.parametrize("label", BITS)
def test_the_table_by_hand_adds_up(label: str) -> None:
    found = re.search(rf"^\| {label} \|.*\| ([\d.]+) GB.*\| ([\d.]+) tokens/s \|$", TEXT, re.MULTILINE)
    assert found is not None
    weights = 70.6 * BITS[label] / 8
    assert float(found[1]) == pytest.approx(weights, abs=0.06)
    assert float(found[2]) == pytest.approx(273 / weights, abs=0.06)


@pytest.mark.parametrize("label", LABELS)
def test_the_printed_table_is_what_the_tool_prints(label: str, rows: dict[str, dict[str, Any]]) -> None:
    row = rows[LABELS[label]]
    number = r"([\d.,]+|none)"
    found = re.search(
        rf"^{label} +(yes|no) +{number} GB +{number} +{number} +{number} \({number}-{number}\) +{number} +"
        r"[\d.]+ (?:s|ms)$",
        TEXT,
        re.MULTILINE,
    )
    assert found is not None
    fits, weights, context, batch, expected, low, high, limit = found.groups()
    band = row["decode_tokens_per_s"]
    assert fits == ("yes" if row["fits"] else "no")
    assert float(weights) == pytest.approx(row["weights_bytes"] / 1e9, abs=0.06)
    assert context == (f"{row['max_context']:,}" if row["max_context"] else "none")
    assert batch == (f"{row['max_batch']:,}" if row["max_batch"] else "none")
    for said, name in ((expected, "expected"), (low, "low"), (high, "high")):
        assert float(said) == pytest.approx(band[name], rel=0.08, abs=0.06)
    assert float(limit) == pytest.approx(row["decode_ceiling_tokens_per_s"], abs=0.06)


def test_the_sum_of_the_example_adds_up(rows: dict[str, dict[str, Any]]) -> None:
    milliseconds = [int(number) for number in re.findall(r"\| (\d+) ms \|", TEXT)]
    total = re.search(r"1 ÷ (\d+) ms \| ([\d.]+) tokens/s", TEXT)
    assert total is not None
    assert sum(milliseconds) == int(total[1])
    assert float(total[2]) == pytest.approx(1000 / int(total[1]), abs=0.06)
    assert float(total[2]) == pytest.approx(rows["nvfp4"]["decode_tokens_per_s"]["expected"], rel=0.08)


def test_the_drafts_of_the_example_are_those_that_the_tool_calculates(shell: Shell) -> None:
    wanted = {one["tokens_per_s"]: one for one in shell.json("compare", "llama3-70b")["drafts"]["wanted"]}
    assert "18 tokens/s instead of 4.9 needs 3.7 tokens per" in TEXT
    assert wanted[18]["tokens_per_step_if_free"] == pytest.approx(3.7, rel=0.08)
    assert wanted[18]["tokens_per_step"] == pytest.approx(5.0, rel=0.08)
    chances = re.findall(r"(18|20) tokens/s.*?(\d\d) %", TEXT.split("## Past the limit")[1], re.DOTALL)
    assert [speed for speed, _ in chances] == ["18", "20"]
    for speed, said in chances:
        assert wanted[int(speed)]["acceptance"] == pytest.approx(int(said) / 100, abs=0.04)
