"""Below the command line nothing prints, exits or reads the environment: a program that uses a package decides that."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).resolve().parents[2] / "orchestrator"
_QUIET = (
    "app",
    "catalog",
    "documents",
    "hub",
    "pages",
    "planner",
    "quantization",
    "recipe",
    "registry",
    "serving",
    "steps",
    "store",
)
_FORBIDDEN = {
    ("os", "environ"),
    ("os", "getenv"),
    ("os", "putenv"),
    ("sys", "argv"),
    ("sys", "exit"),
    ("sys", "stderr"),
    ("sys", "stdin"),
    ("sys", "stdout"),
}


def found_in(code: str) -> Iterator[str]:
    """Name each use of standard streams, of the environment or of an exit."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(func=ast.Name(id="print" | "exit" | "input" as name)):
                yield name
            case ast.Attribute(value=ast.Name(id=module), attr=name) if (module, name) in _FORBIDDEN:
                yield f"{module}.{name}"
            case ast.ImportFrom(module="os" | "sys" as module, names=names):
                yield from (f"{module}.{one.name}" for one in names if (module, one.name) in _FORBIDDEN)
            case ast.Raise(exc=ast.Name(id="SystemExit") | ast.Call(func=ast.Name(id="SystemExit"))):
                yield "SystemExit"
            case _:
                pass


@pytest.mark.parametrize("package", _QUIET)
def test_a_package_neither_prints_nor_exits_nor_reads_the_environment(package: str) -> None:
    files = sorted((_PACKAGE / package).rglob("*.py"))
    assert files
    assert [f"{file}: {use}" for file in files for use in found_in(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("code", "use"),
    [
        ("print(1)", "print"),
        ("import os\nos.environ['A'] = 'b'", "os.environ"),
        ("from os import environ", "os.environ"),
        ("import sys\nsys.exit(1)", "sys.exit"),
        ("raise SystemExit(1)", "SystemExit"),
    ],
)
def test_each_use_is_found(code: str, use: str) -> None:
    assert list(found_in(code)) == [use]
