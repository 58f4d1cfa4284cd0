"""Each line of the page on faults names a test that is there; so does each of the README, which shows a part of it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "explanation" / "what-happens-when.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\| (when|---)", line)]


@cache
def named_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_fault_has_a_test(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 4
    assert all(cells)
    named = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", cells[3])
    assert named, cells[3]
    assert named[2] in named_in(named[1])


README = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What happens when\n")[2].partition("\n## ")[0]
SHOWN = [line for line in README.splitlines() if line.startswith("|") and not re.match(r"\| (when|---)", line)]


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_fault_of_the_readme_is_on_the_page_with_its_test(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(cells) == 3
    assert all(cells)
    assert re.fullmatch(r"`test_\w+`", cells[2])
    assert f"::{cells[2].strip('`')}`" in PAGE


def test_the_readme_shows_some() -> None:
    assert len(SHOWN) > 10
