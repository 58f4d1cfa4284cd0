"""Reads the name of a recipe as a user writes it: its name, or the path of its file."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from orchestrator.errors import RecipeUnknownError
from orchestrator.recipe.names import ENDING, NAME_HINT, NAME_PATTERN
from orchestrator.values import frozen


@frozen
class RecipeName:
    """A recipe as the user named it. `str()` writes it for a command line."""

    name: str
    """Its name, which its results, its deployment and its lock use."""
    file: Path | None = None
    """The absolute path of its file, if it was named by a path."""

    @classmethod
    def parse(cls, text: str) -> RecipeName:
        """Treat an argument with a slash or the ending `.yaml` as a path, all others as names.

        Raises:
            RecipeUnknownError: The path is not that of a possible recipe file.
        """
        if os.sep not in text and not text.endswith(ENDING):
            return cls(text)
        place = Path(text)
        name = place.name.removesuffix(ENDING)
        if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
            message = f"{text!r} is not a recipe file: `{name}` is not a valid recipe name"
            raise RecipeUnknownError(message, hint=NAME_HINT)
        return cls(name, place.parent.resolve() / place.name)

    @property
    def lock_file(self) -> Path | None:
        """The path of its lock beside its file, if it was named by a path."""
        return self.file and self.file.with_name(f"{self.name}.lock")

    def __str__(self) -> str:
        """Write it as a user in this folder would."""
        if self.file is None:
            return self.name
        here = Path.cwd()
        near = f".{os.sep}{self.file.relative_to(here)}" if self.file.is_relative_to(here) else str(self.file)
        return shlex.quote(near)
