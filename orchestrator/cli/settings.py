"""What a command starts from: where the project, the store and dist/ lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `orchestrator --help` must load nothing heavy
    from orchestrator.catalog.load import Catalog
    from orchestrator.catalog.project import Project
    from orchestrator.recipe.load import RecipeBook
    from orchestrator.store.store import Store

_SECRETS = {"HF_TOKEN": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
"""By the name that a step knows, the variables that may have it; the Hub's client takes the older name, too."""


@dataclass(frozen=True)
class Settings:
    """The options before the command, and what follows from them."""

    project_option: Path | None
    store_option: Path | None
    dist_option: Path | None

    @cached_property
    def project(self) -> Project:
        """The project folder."""
        from orchestrator.catalog.project import Project  # noqa: PLC0415 - see above

        return Project(self.project_option.resolve()) if self.project_option else Project.find(Path.cwd())

    @property
    def home(self) -> Path:
        """The folder whose `.orchestrator/` and `dist/` are used: the project, or where the user stands."""
        return self.project.root if os.access(self.project.root, os.W_OK) else Path.cwd()

    @cached_property
    def catalog(self) -> Catalog:
        """Images and targets."""
        from orchestrator.catalog.load import Catalog  # noqa: PLC0415 - see above

        return Catalog(self.project)

    @cached_property
    def book(self) -> RecipeBook:
        """The recipes."""
        from orchestrator.recipe.load import RecipeBook  # noqa: PLC0415 - see above

        return RecipeBook(self.project.recipes)

    @cached_property
    def store(self) -> Store:
        """The store."""
        from orchestrator.store.store import Store  # noqa: PLC0415 - see above

        return Store((self.store_option or self.home / ".orchestrator").resolve())

    @property
    def dist(self) -> Path:
        """The folder of deployments."""
        return (self.dist_option or self.home / "dist").resolve()

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets that this shell has, by name; they reach only the steps that declare them."""
        found = {name: next(filter(None, map(os.environ.get, names)), "") for name, names in _SECRETS.items()}
        return {name: value for name, value in found.items() if value}
