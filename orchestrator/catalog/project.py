"""Finds recipes, images and targets: the files of a project before those of the tool."""

from __future__ import annotations

import os
import stat
from dataclasses import field
from functools import cached_property
from pathlib import Path

from orchestrator.catalog.marks import is_marked
from orchestrator.values import frozen

_PACKAGE = Path(__file__).resolve().parent.parent


def packaged_data() -> Path:
    """Return the folder of the tool's data: in the installed package, else in the checkout."""
    installed = _PACKAGE / "_project"
    return installed if installed.is_dir() else _PACKAGE.parent


@frozen
class Project:
    """A user's folder with `recipes/`, `docker/` or `targets/`. The tool provides what it lacks."""

    root: Path
    is_found: bool = True
    """False: this is not a project, so only the tool's data counts."""
    packaged: Path = field(default_factory=packaged_data)
    """The tool's data."""

    @classmethod
    def find(cls, start: Path) -> Project:
        """Return the nearest project folder at or above `start`, else `start` without files of its own.

        A folder above `start` that everybody may write to, such as `/tmp`, is skipped, because any user may put files
        there. The tool's own package is skipped, too.
        """
        for folder in (start, *start.parents):
            passed_over = folder.is_relative_to(_PACKAGE) or (folder != start and _is_everybodys(folder))
            if not passed_over and is_marked(folder):
                return cls(folder)
        return cls(start, is_found=False)

    @property
    def is_checkout(self) -> bool:
        """Whether the root is a checkout of this tool's repository."""
        return all((self.root / file).is_file() for file in ("pyproject.toml", "orchestrator/catalog/targets.yaml"))

    @cached_property
    def layers(self) -> tuple[Path, ...]:
        """The folders to look in, nearest first: the project's own, then the tool's."""
        if not self.is_found:
            return (self.packaged,)
        return tuple(dict.fromkeys((self.root, self.packaged)))

    @property
    def recipes(self) -> Path:
        """The project's own folder of recipes and locks."""
        return self.root / "recipes"

    @property
    def recipe_folders(self) -> tuple[Path, ...]:
        """Every folder of recipes, nearest first."""
        return tuple(layer / "recipes" for layer in self.layers)

    @property
    def image_files(self) -> tuple[Path, ...]:
        """The catalogues of images, the tool's first. Later ones have priority."""
        own = tuple(layer / "docker" / "images.yaml" for layer in reversed(self.layers[:-1]))
        return (self.packaged / "docker" / "images.yaml", *filter(os.path.lexists, own))

    @property
    def target_files(self) -> tuple[Path, ...]:
        """The files of targets, the tool's first. Later ones have priority."""
        own = (sorted((layer / "targets").glob("*.yaml")) for layer in reversed(self.layers))
        return (_PACKAGE / "catalog" / "targets.yaml", *(file for files in own for file in files))

    def layer_of(self, path: str) -> Path:
        """Find the nearest layer with a file; the nearest of all if none has it."""
        return next((layer for layer in self.layers if (layer / path).is_file()), self.layers[0])

    def tables(self, name: str) -> tuple[Path, ...]:
        """Find the tables of a tool's options by name, nearest first; the expected path if there is none."""
        places = [layer / "docker" / "tools" / f"{name}.json" for layer in self.layers]
        return tuple(place for place in places if place.is_file()) or (places[0],)


def _is_everybodys(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return True
