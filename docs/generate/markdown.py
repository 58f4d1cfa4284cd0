"""Markdown, and what the source says of itself."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
NOTE = "<!-- Written by `python -m docs.generate` from the code: change it there. -->"


@dataclass(frozen=True)
class Described:
    """A field of a class with the words under it."""

    name: str
    type: str
    words: str


def page(title: str, *parts: str) -> str:
    """Put a generated page together."""
    return "\n\n".join((f"# {title}", NOTE, *(part.strip("\n") for part in parts))) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a cell may hold what has a meaning in one."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Mark a value as literal; nothing stays nothing."""
    return f"`{text}`" if text else ""


def codes(values: Iterable[str]) -> str:
    """Mark several values as literal."""
    return ", ".join(code(value) for value in values)


def block(text: str, language: str = "text") -> str:
    """Write a block of literal text."""
    body = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"```{language}\n{body}\n```"


def first_line(words: str | None) -> str:
    """Give the sentence that a docstring begins with."""
    return " ".join((words or "").strip().split("\n\n")[0].split())


def table_in(words: str | None) -> str:
    """Find the table that a docstring holds."""
    return "\n".join(line for line in (words or "").splitlines() if line.startswith("|"))


def source_of(module: ModuleType) -> ast.Module:
    """Read a module's source."""
    return ast.parse(inspect.getsource(module))


def classes_of(module: ModuleType) -> Iterator[ast.ClassDef]:
    """Yield a module's public classes in the order of the source."""
    found = (node for node in source_of(module).body if isinstance(node, ast.ClassDef))
    yield from (node for node in found if not node.name.startswith("_"))


def fields_of(node: ast.ClassDef) -> tuple[Described, ...]:
    """Read a class's annotated fields and the docstring under each."""
    following = [*node.body[1:], None]
    return tuple(
        Described(part.target.id, ast.unparse(part.annotation), _docstring(after))
        for part, after in zip(node.body, following, strict=True)
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    )


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""
