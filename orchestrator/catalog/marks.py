"""Recognizes a project folder by files of ours, by their path and keys, even if the rest is broken.

A folder called `recipes` or `targets` alone is not enough, because others have such folders, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.values import frozen

_BEGINNING = 64 * 1024
"""Bytes of a file that are read."""


@frozen
class _Mark:
    """Files of one kind, and the keys that they have."""

    pattern: str
    top: tuple[str, ...]
    """Keys of the outermost mapping. One of them is required."""
    inner: tuple[str, ...] = ()
    """Nested keys. One of them is required, if any are given."""

    def is_on(self, text: bytes) -> bool:
        """Tell whether a file has the keys. In a flow mapping, such as JSON, depth is ignored."""
        at_top = r"" if text.lstrip().startswith(b"{") else r"^"
        return _has(text, at_top, self.top) and (not self.inner or _has(text, r"", self.inner))


_MARKS = (
    _Mark("docker/images.yaml", ("images", "faults"), ("reference", "extends", "runtime", "effect")),
    _Mark("recipes/*.yaml", ("schema_version", "extends")),
    _Mark("recipes/bases/*.yaml", ("schema_version", "extends")),
    _Mark("recipes/*.lock", ("recipe_digest", "repositories")),
    _Mark("targets/*.yaml", ("targets",), ("memory",)),
)


def is_marked(folder: Path) -> bool:
    """Tell whether a folder has a recipe, a lock, a catalogue of images or a target of a user."""
    return any(mark.is_on(text) for mark in _MARKS for text in _beginnings(folder, mark.pattern))


def _beginnings(folder: Path, pattern: str) -> Iterator[bytes]:
    """Read the beginnings of files. Unreadable files are skipped, and pipes, for which a reader would wait."""
    place, _, name = pattern.rpartition("/")
    if not (folder / place).is_dir():
        return
    for file in filter(Path.is_file, sorted((folder / place).glob(name))):
        try:
            with file.open("rb") as stream:
                yield stream.read(_BEGINNING)
        except OSError:
            continue


def _has(text: bytes, before: str, keys: tuple[str, ...]) -> bool:
    pattern = rf"{before}[\"']?\b(?:{'|'.join(keys)})[\"']?[ \t]*:(?:\s|$)"
    return re.search(pattern.encode(), text, re.MULTILINE) is not None
