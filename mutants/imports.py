"""Finds what a test can reach in its own process: the modules that it imports, at any depth."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

_CODE = ("orchestrator", "tests")
_NO_INPUT = ("docs", "mutants", ".github")
_NO_DATA = (".py", ".pyc", ".md")


class Imports:
    """The modules of a copy of the project, and what each imports, also inside functions."""

    def __init__(self, tree: Path) -> None:
        """Find the modules."""
        self._tree = tree
        self._files = {
            ".".join(file.relative_to(tree).with_suffix("").parts).removesuffix(".__init__"): file
            for folder in _CODE
            for file in (tree / folder).rglob("*.py")
        }
        self._imports: dict[str, frozenset[str]] = {}

    def reached(self, test: Path) -> frozenset[Path]:
        """Return a test's file, those of the modules that it can import, and of what pytest loads for it."""
        names = {name for name, file in self._files.items() if file == test or _is_conftest_of(file, test)}
        ahead = list(names)
        while ahead:
            new = self._imported(ahead.pop()) - names
            names |= new
            ahead += new
        return frozenset(self._files[name] for name in names)

    def digest(self, files: Iterable[Path]) -> str:
        """Return a digest of modules and of all files that are no code, as recipes and tables."""
        return _digest(self._tree, files) + self._others

    @cached_property
    def _others(self) -> str:
        folders = (folder for folder in self._tree.iterdir() if folder.name not in _NO_INPUT)
        found = (file for folder in folders for file in (folder, *folder.rglob("*")) if file.suffix not in _NO_DATA)
        return _digest(self._tree, filter(Path.is_file, found))

    def _imported(self, name: str) -> frozenset[str]:
        if name not in self._imports:
            self._imports[name] = frozenset(self._find(name))
        return self._imports[name]

    def _find(self, name: str) -> Iterator[str]:
        file = self._files[name]
        package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            for dotted in _names(node, package):
                parts = dotted.split(".")
                yield from {".".join(parts[:end]) for end in range(1, len(parts) + 1)} & self._files.keys()
            if getattr(node, "attr", getattr(node, "id", "")) == "import_module":  # it makes the name as it runs
                yield from (other for other in self._files if other.startswith(f"{'.'.join(package)}."))


def _names(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Return the modules that a node may import. A text that begins so is a plugin of pytest."""
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        yield from (".".join([*above, *filter(None, [node.module]), each.name]) for each in node.names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("tests."):
        yield node.value


def _is_conftest_of(file: Path, test: Path) -> bool:
    return file.name == "conftest.py" and file.parent in test.parents


def _digest(tree: Path, files: Iterable[Path]) -> str:
    lines = (f"{file.relative_to(tree)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
