"""How a command line names a recipe: by its name, or by the path of its file."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import RecipeUnknownError
from orchestrator.recipe.names import ENDING, NAME_HINT, NAME_PATTERN


@dataclass(frozen=True)
class Named:
    """A recipe as a user named it; its text is what names it again on a command line."""

    name: str
    """Its name: what its results, its deployment and its lock are called."""
    file: Path | None = None
    """Its file, absolute, where it was named by a path."""

    @classmethod
    def read(cls, text: str) -> Named:
        """Take what has a slash or ends in `.yaml` for a path, all else for a name.

        Raises:
            RecipeUnknownError: The path is not that of a file which could hold a recipe.
        """
        if os.sep not in text and not text.endswith(ENDING):
            return cls(text)
        place = Path(text)
        name = place.name.removesuffix(ENDING)
        if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
            message = f"{text!r} is no recipe: a file is called as its recipe, and `{name}` is no recipe name"
            raise RecipeUnknownError(message, hint=NAME_HINT)
        return cls(name, place.parent.resolve() / place.name)

    @property
    def lock(self) -> Path | None:
        """The place of its lock beside its file, where it was named by a path."""
        return self.file and self.file.with_name(f"{self.name}.lock")

    def __str__(self) -> str:
        """Write it as a user who stands here would."""
        if self.file is None:
            return self.name
        here = Path.cwd()
        near = f".{os.sep}{self.file.relative_to(here)}" if self.file.is_relative_to(here) else str(self.file)
        return shlex.quote(near)
