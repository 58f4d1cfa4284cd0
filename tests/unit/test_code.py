"""What a file imports of ours, found by its text, is what Python's own parser finds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import code

FILES = sorted(code.PACKAGE.rglob("*.py"))


def parsed(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("orchestrator"))
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("orchestrator"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_file_of_ours_imports_what_is_found() -> None:
    assert len(FILES) > 100
    for file in FILES:
        assert sorted(code.imports_of(file)) == sorted(parsed(file)), file


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import orchestrator.plan", ["orchestrator.plan"]),
        ("    from orchestrator.hub import wanted as w  # noqa: why not plan", ["orchestrator.hub.wanted"]),
        (
            "from orchestrator import (\n    plan,  # of all\n    runner as r,\n)",
            ["orchestrator.plan", "orchestrator.runner"],
        ),
        ("import orchestrators\nfrom os import path\nx = 'import orchestrator.plan'", []),
    ],
)
def test_an_import_is_found_as_it_is_written(tmp_path: Path, text: str, found: list[str]) -> None:
    file = tmp_path / "module.py"
    file.write_text(text, encoding="utf-8")
    assert list(code.imports_of(file)) == found
