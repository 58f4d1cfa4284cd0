"""Finds the places where code can be changed, and takes a sample of them by a seed.

Whether a place is in the sample depends on the seed and on the text of its own function alone. So a change elsewhere,
or a moved line, leaves the other mutants of the sample as they are.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from parso.tree import NodeOrLeaf

from mutants.areas import Area
from mutants.operators import OPERATORS, family

_NO_BEHAVIOUR = ("@cache", "@functools.cache", "@lru_cache", "@functools.lru_cache", "@overload", "@dataclass")
"""Decorators that change no result, or without which no test starts."""
_ASSUMPTIONS = ("strict", "frozen", "slots", "kw_only", "daemon")
"""Arguments that check what we assume, and that no input reaches."""


@dataclass(frozen=True)
class Site:
    """A place where an operator can change the code."""

    module: str
    """The file, relative to the project."""
    function: str
    """The function around it, with its class; `module` outside functions."""
    line: int
    operator: str
    occurrence: int
    """Which of the operator's places in the file."""
    identity: str
    """What it is, without numbers of lines."""

    @property
    def place(self) -> str:
        """The place without the choice of an operator's variant."""
        return self.identity.rpartition("|")[0]


@dataclass(frozen=True)
class Mutant:
    """A change of one place."""

    area: str
    site: Site
    text: str
    """The whole file with the change."""
    before: str
    after: str
    """The changed lines."""

    def __str__(self) -> str:
        """Show where it is and what it changes."""
        return f"{self.site.module}:{self.site.line} {self.site.function}: `{self.before}` -> `{self.after}`"


def sample(areas: Iterable[Area], root: Path, count: int, seed: int) -> list[Mutant]:
    """Take as many mutants from each area.

    Args:
        areas: The areas.
        root: The project's folder.
        count: How many in all, or a few more so that each area has as many.
        seed: What decides which.
    """
    areas = tuple(areas)
    each = math.ceil(count / len(areas))
    return [mutant for area in areas for mutant in _sample_of(area, root, each, seed)]


def _sample_of(area: Area, root: Path, count: int, seed: int) -> Iterator[Mutant]:
    def rank(text: str) -> str:
        return hashlib.sha256(f"{seed}|{text}".encode()).hexdigest()

    variants: dict[str, list[Site]] = {}
    for module in area.modules(root):
        for site in _sites(module, module.relative_to(root).as_posix()):
            variants.setdefault(site.place, []).append(site)
    made = 0
    for place in sorted(variants, key=rank):
        site = min(variants[place], key=lambda site: rank(site.identity))
        mutant = _mutant(area, site, root)
        if mutant:
            yield mutant
            made += 1
        if made == count:
            return


def _mutant(area: Area, site: Site, root: Path) -> Mutant | None:
    """Make the change; None if the result is no Python."""
    original = (root / site.module).read_text("utf-8")
    try:
        changed = mutate_code(original, OPERATORS[site.operator], site.occurrence)
        if changed is None or changed == original:
            return None
        compile(changed, site.module, "exec")
    except (SyntaxError, AttributeError):  # cosmic-ray's operators do not know dotted names of exceptions
        return None
    lines = list(difflib.unified_diff(original.splitlines(), changed.splitlines(), lineterm="", n=0))[2:]
    before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return Mutant(area.name, site, changed, before, after)


def _sites(file: Path, module: str) -> Iterator[Site]:
    tree = get_ast(file.read_text("utf-8"))
    seen: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    for node in ast_nodes(tree):
        for name, operator in OPERATORS.items():
            for variant, (start, end) in enumerate(operator.mutation_positions(node)):
                occurrence = occurrences[name]
                occurrences[name] += 1
                changed = tree.get_leaf_for_position(start, include_prefixes=True)
                if _means_nothing(changed):
                    continue
                function = _function(changed)
                code = node.get_code(include_prefix=False)
                same = f"{module}|{function}|{family(name)}|{code}|{start[1] - node.start_pos[1]}|{end[0] - start[0]}"
                number = seen[f"{same}|{name}|{variant}"]
                seen[f"{same}|{name}|{variant}"] += 1
                identity = f"{same}|{number}|{name}.{variant}"
                yield Site(module, function, start[0], name, occurrence, identity)


def _means_nothing(node: NodeOrLeaf) -> bool:
    """Return whether a change here changes no behaviour: in annotations, signatures, for type checkers, of caches."""
    while node.parent is not None:
        child, node = node, node.parent
        kind = node.type
        if kind in ("annassign", "tfpdef") and child is node.children[1 if kind == "annassign" else 2]:
            return True
        if (kind == "funcdef" and child is node.annotation) or (kind == "parameters" and child.type == "operator"):
            return True
        if kind == "if_stmt" and node.children[1].get_code().strip() in ("TYPE_CHECKING", '__name__ == "__main__"'):
            return True
        if child.type == "decorator" and child.get_code(include_prefix=False).startswith(_NO_BEHAVIOUR):
            return True
        if child.type == "argument" and child.children[0].get_code().strip() in _ASSUMPTIONS:
            return True
    return False


def _function(node: NodeOrLeaf) -> str:
    names = []
    while node.parent is not None:
        node = node.parent
        if node.type in ("funcdef", "classdef"):
            names.append(node.name.value)
    return ".".join(reversed(names)) or "module"
