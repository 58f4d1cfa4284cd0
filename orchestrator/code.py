"""Which of our own modules a payload runs, and what state they are in.

A key holds the state of just the code that a step runs: a better `verify` must not quantize 140 GB again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

_IMPORT = re.compile(
    rf"^[ \t]*(?:from[ \t]+(?P<source>{PACKAGE.name}(?:\.[\w.]+)?)[ \t]+import[ \t]*(?P<names>\([^)]*\)|[^\n]*)"
    rf"|import[ \t]+(?P<module>{PACKAGE.name}(?:\.[\w.]+)?)\b)",
    re.MULTILINE,
)
_NAME = re.compile(r"#.*|(\w+)(?:[ \t]+as[ \t]+\w+)?")

_SAYS_ONLY = frozenset(
    {
        *("errors.py", "events.py", "payloads/_main.py", "payloads/_report.py"),
        *("room.py", "hub/outstanding.py", "hub/words.py"),
    }
)
"""How a payload reports what it does, counts the room that it will need, and words what the Hub refuses: no byte of a
result depends on them, and a new error class must not make anybody download or quantize a model again."""


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
                pending.extend(imports_of(file))
    return found


def _files(module: str) -> Iterator[Path]:
    """Yield a module's file and the packages above it, which Python runs too; nothing for a name inside a module."""
    ours = _modules()
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        file = ours.get(".".join(parts[:length]))
        if file:
            yield Path(file)


@cache
def _modules() -> Mapping[str, str]:
    """Find the file of each of our modules by the module's full name."""
    found: dict[str, str] = {}
    for folder, below, names in os.walk(PACKAGE):
        below[:] = [name for name in below if name != "__pycache__"]
        package = ".".join((PACKAGE.name, *Path(folder).relative_to(PACKAGE).parts))
        for name in names:
            if name.endswith(".py"):
                module = package if name == "__init__.py" else f"{package}.{name.removesuffix('.py')}"
                found[module] = f"{folder}{os.sep}{name}"  # a Path for each of hundreds takes its time
    return found


@cache  # payloads share most of what they import
def imports_of(file: Path) -> tuple[str, ...]:
    """Find what a file imports of ours.

    By its text, which takes a tenth of a parser's time; an import that stands in a docstring is found too and does
    no harm: a key then holds more than it must, never less.
    """
    found: list[str] = []
    for source, names, module in _IMPORT.findall(file.read_text(encoding="utf-8")):
        found.extend([module] if module else (f"{source}.{name}" for name in _NAME.findall(names) if name))
    return tuple(found)
