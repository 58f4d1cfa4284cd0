"""Where the project's data lies: recipes, images, targets. A checkout, or the copy inside an installed package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Project:
    """A folder with `recipes/`, `docker/images.yaml` and, where a user adds machines, `targets/`."""

    root: Path

    @classmethod
    def find(cls, start: Path) -> Project:
        """Take the nearest folder at or above `start` that holds a catalogue, else the one that came with the code."""
        for folder in (start, *start.parents):
            if (folder / "docker" / "images.yaml").is_file() and (folder / "recipes").is_dir():
                return cls(folder)
        installed = _PACKAGE / "_project"
        return cls(installed if installed.is_dir() else _PACKAGE.parent)

    @property
    def recipes(self) -> Path:
        """The folder of recipes and their locks."""
        return self.root / "recipes"

    @property
    def images_file(self) -> Path:
        """The catalogue of images."""
        return self.root / "docker" / "images.yaml"

    @property
    def tools(self) -> Path:
        """The folder of option tables."""
        return self.root / "docker" / "tools"

    @property
    def target_files(self) -> tuple[Path, ...]:
        """The built-in targets, then the user's own, which win."""
        own = self.root / "targets"
        return (_PACKAGE / "catalog" / "targets.yaml", *(sorted(own.glob("*.yaml")) if own.is_dir() else ()))
