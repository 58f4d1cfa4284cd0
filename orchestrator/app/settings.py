"""Finds the folders of a command: the project, the store and dist/."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import HomeMissingError, RecipeUnknownError

if TYPE_CHECKING:  # `orchestrator --help` must load nothing heavy
    from orchestrator.app.named import Named
    from orchestrator.catalog.load import Catalog
    from orchestrator.catalog.project import Project
    from orchestrator.recipe.load import LoadedRecipe, RecipeBook
    from orchestrator.store.store import Store

_SECRETS = {"HF_TOKEN": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
"""Environment variables for each secret, by its name in a step. The Hub's client accepts the older name, too."""


def data_home() -> Path:
    """Return the folder of the user's program data, after the XDG base directory specification.

    Raises:
        HomeMissingError: The user has no home folder.
    """
    given = Path(os.environ.get("XDG_DATA_HOME", ""))
    if given.is_absolute():
        return given
    try:
        return Path.home() / ".local" / "share"
    except RuntimeError as error:
        message = "this user has no home folder for the store"
        raise HomeMissingError(
            message, hint="say where results are kept: --store FOLDER or ORCHESTRATOR_STORE"
        ) from error


@dataclass(frozen=True)
class Settings:
    """The options before the command, and values derived from them."""

    project_option: Path | None
    store_option: Path | None
    dist_option: Path | None
    start: Path | None = None
    """Where the search for the project starts, such as a recipe's folder; None: the working folder."""

    def at(self, recipe: Named) -> Settings:
        """Use the project of a recipe. A recipe that is named by its file has its own."""
        return replace(self, start=recipe.file.parent) if recipe.file else self

    @cached_property
    def project(self) -> Project:
        """The project folder."""
        from orchestrator.catalog.project import Project  # noqa: PLC0415 - see above

        return Project(self.project_option.resolve()) if self.project_option else Project.find(self.start or Path.cwd())

    def load(self, recipe: Named, overrides: Sequence[str] = ()) -> LoadedRecipe:
        """Load a recipe by its name or from its file."""
        if recipe.file:
            return self.book.load_file(recipe.file, overrides)
        try:
            return self.book.load(recipe.name, overrides)
        except RecipeUnknownError as error:
            here = Path(f"{recipe.name}.yaml")
            if not here.is_file():
                raise
            raise RecipeUnknownError(error.message, hint=f"did you mean the file ./{here}?") from error

    @cached_property
    def catalog(self) -> Catalog:
        """Images and targets."""
        from orchestrator.catalog.load import Catalog  # noqa: PLC0415 - see above

        return Catalog(self.project)

    @cached_property
    def book(self) -> RecipeBook:
        """The recipes."""
        from orchestrator.recipe.load import RecipeBook  # noqa: PLC0415 - see above

        nearest, *below = self.project.recipe_folders
        return RecipeBook(nearest, tuple(below))

    @cached_property
    def store(self) -> Store:
        """The store."""
        from orchestrator.store.store import Store  # noqa: PLC0415 - see above

        return Store((self.store_option or self._own_store or data_home() / "orchestrator").resolve())

    @property
    def dist(self) -> Path:
        """The folder of deployments: in the project or the working folder."""
        return (self.dist_option or (self.project.root if self._is_writable else Path.cwd()) / "dist").resolve()

    @property
    def _own_store(self) -> Path | None:
        """The project's own store: an existing one, or that of a checkout."""
        own = self.project.root / ".orchestrator"
        return own if own.is_dir() or (self.project.is_checkout and self._is_writable) else None

    @property
    def _is_writable(self) -> bool:
        """Whether there is a project in which results may be written."""
        return self.project.is_found and os.access(self.project.root, os.W_OK)

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets of this environment, by name. Only steps that declare them get them."""
        found = {name: next(filter(None, map(os.environ.get, names)), "") for name, names in _SECRETS.items()}
        return {name: value for name, value in found.items() if value}
