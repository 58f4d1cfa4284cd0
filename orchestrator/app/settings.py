"""Finds the folders of a program: the project, the store and dist/."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from orchestrator.app.recipe_name import RecipeName
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import FileNameError, HomeMissingError, RecipeUnknownError
from orchestrator.recipe.load import LoadedRecipe, RecipeBook
from orchestrator.store.store import Store
from orchestrator.values import frozen

_SECRETS = {"HF_TOKEN": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
"""Environment variables for each secret, by its name in a step. The Hub's client accepts the older name, too."""


def data_home(environment: Mapping[str, str]) -> Path:
    """Return the folder of the user's program data, after the XDG base directory specification.

    Args:
        environment: The environment variables.

    Raises:
        HomeMissingError: The user has no home folder.
    """
    given = Path(environment.get("XDG_DATA_HOME", ""))
    if given.is_absolute():
        return given
    try:
        return Path.home() / ".local" / "share"
    except RuntimeError as error:
        message = "this user has no home folder for the store"
        raise HomeMissingError(message, hint="name a folder for it: --store FOLDER or ORCHESTRATOR_STORE") from error


def _printable(folder: Path) -> Path:
    """Return the absolute path of a folder, which scripts, reports and JSON quote."""
    folder = folder.resolve()
    if not str(folder).isprintable():  # half a character is not
        message = f"the path {str(folder)!a:.300} has a character that cannot be printed"
        raise FileNameError(message, hint="rename the folder, or name another one: --project, --store or --dist FOLDER")
    return folder


@frozen
class Settings:
    """The environment and the folders of a program, and what they contain.

    Nothing is read until a property is used.
    """

    environment: Mapping[str, str]
    """The environment variables, usually `os.environ`. Steps inherit a few of them, such as `PATH` and `HF_HOME`."""
    project_folder: Path | None = None
    """None: the nearest folder at or above `start` that has `recipes/`, `docker/images.yaml` or `targets/`."""
    store_folder: Path | None = None
    """None: the project's own store, or `orchestrator/` in the user's data folder."""
    dist_folder: Path | None = None
    """None: `dist/` in the project, or in the working folder."""
    start: Path | None = None
    """Where the search for the project starts, such as a recipe's folder; None: the working folder."""

    def at(self, recipe: RecipeName) -> Settings:
        """Return the settings for a recipe. A recipe that is named by its file belongs to the project of that file."""
        return replace(self, start=recipe.file.parent) if recipe.file and not self.project_folder else self

    @cached_property
    def project(self) -> Project:
        """The project folder."""
        if self.project_folder:
            return Project(_printable(self.project_folder))
        return Project.find(self.start or Path.cwd())

    def load(self, recipe: RecipeName, overrides: Sequence[str] = ()) -> LoadedRecipe:
        """Load a recipe by its name or from its file.

        Args:
            recipe: The recipe.
            overrides: `KEY=VALUE` each.

        Raises:
            RecipeUnknownError: There is no such recipe.
            RecipeInvalidError: Its text is not valid, or an override is not.
        """
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
        return Catalog(self.project)

    @cached_property
    def book(self) -> RecipeBook:
        """The recipes."""
        nearest, *below = self.project.recipe_folders
        return RecipeBook(nearest, tuple(below))

    @cached_property
    def store(self) -> Store:
        """The store."""
        return Store(_printable(self.store_folder or self._own_store or data_home(self.environment) / "orchestrator"))

    @property
    def dist(self) -> Path:
        """The folder of deployments: in the project or the working folder."""
        return _printable(self.dist_folder or (self.project.root if self._is_writable else Path.cwd()) / "dist")

    @property
    def measurements(self) -> Path:
        """The folder of measured rows: in the project, where they can be committed, else in the store."""
        return (self.project.root if self._is_writable else self.store.root) / "measurements"

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
    def is_offline(self) -> bool:
        """Whether the user allows no network for models, as the Hub's client understands it."""
        return self.environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets of this environment, by name. Only steps that declare them get them."""
        found = {name: next(filter(None, map(self.environment.get, names)), "") for name, names in _SECRETS.items()}
        return {name: value for name, value in found.items() if value}
