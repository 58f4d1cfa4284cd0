"""Reports a request for a build that does not exist."""

from __future__ import annotations

from orchestrator.app.named import Named
from orchestrator.app.settings import Settings
from orchestrator.cli.text import program
from orchestrator.errors import RecipeUnknownError


def never_built(settings: Settings, recipe: Named) -> RecipeUnknownError:
    """Explain how to build a recipe that was never built.

    Raises:
        RecipeUnknownError: There is no such recipe. Names the nearest one.
    """
    settings.load(recipe)
    message = f"{recipe.name} was never built here ({settings.store.root})"
    return RecipeUnknownError(message, hint=f"{program()} build {recipe}")
