"""Which of our own modules a payload runs, and what state they are in.

A key holds the state of just the code that a step runs: a better `verify` must not quantize 140 GB again.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_PREFIX = PACKAGE.name + "."

_SAYS_ONLY = frozenset({"errors.py", "events.py", "payloads/_main.py", "payloads/_report.py"})
"""How a payload reports what it does: no byte of a result depends on them, and a new error class must not make
anybody download or quantize a model again."""


@cache
def code_digest(module: str) -> str:
    """Name the state of a module and of everything of ours that it imports, directly or not.

    Args:
        module: Its full name, e.g. `orchestrator.payloads.quantize`.
    """
    digest = hashlib.sha256()
    for file in sorted(_closure(module)):
        if file.relative_to(PACKAGE).as_posix() in _SAYS_ONLY:
            continue
        digest.update(f"{file.relative_to(PACKAGE).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _closure(module: str) -> set[Path]:
    found: set[Path] = set()
    pending = [module]
    while pending:
        for file in _files(pending.pop()):
            if file not in found:
                found.add(file)
                pending.extend(_imports(file))
    return found


def _files(module: str) -> Iterator[Path]:
    """Yield a module's file and the packages above it, which Python runs too; nothing for a name inside a module."""
    parts = module.removeprefix(_PREFIX).split(".")
    for length in range(len(parts) + 1):
        place = PACKAGE.joinpath(*parts[:length])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file() and file.is_relative_to(PACKAGE):
                yield file


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(_PREFIX))
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(_PREFIX):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
