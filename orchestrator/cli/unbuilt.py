"""What is said where somebody asks for a build that there never was."""

from __future__ import annotations

from orchestrator.cli.named import Named
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import program
from orchestrator.errors import RecipeUnknownError


def never_built(settings: Settings, recipe: Named) -> RecipeUnknownError:
    """Say how to build a recipe that never was.

    Raises:
        RecipeUnknownError: There is no such recipe; with the nearest name.
    """
    settings.load(recipe)
    message = f"{recipe.name} was never built here ({settings.store.root})"
    return RecipeUnknownError(message, hint=f"{program()} build {recipe}")
