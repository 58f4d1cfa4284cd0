"""Lists the recipes with their size and speed."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.app.settings import Settings
from orchestrator.app.sizes import sizes_of
from orchestrator.errors import OrchestratorError
from orchestrator.planner.summary import Summary, summary_of
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.recipe.model import Format, Recipe
from orchestrator.values import frozen


@frozen
class ListedRecipe:
    """A readable recipe."""

    loaded: LoadedRecipe
    summary: Summary

    @property
    def recipe(self) -> Recipe:
        """Its values."""
        return self.loaded.recipe

    @property
    def shadows(self) -> bool:
        """Whether it replaces a recipe of the tool."""
        return self.loaded.file in self.loaded.shadows


@frozen
class BrokenRecipe:
    """A file that is not a valid recipe."""

    name: str
    error: OrchestratorError


@frozen
class RecipeFilter:
    """The recipes to list."""

    text: str
    model: str
    format: Format | None
    target: str | None
    fits: bool

    def matches(self, recipe: Recipe) -> bool:
        """Tell whether a recipe's text matches."""
        words = f"{recipe.name} {recipe.description} {model_name(recipe)}".lower()
        return (
            all(word in words for word in self.text.lower().split())
            and self.model.lower() in f"{model_name(recipe)} {recipe.model.architecture}".lower()
            and self.format in (None, recipe.quantization.format)
            and self.target in (None, recipe.target)
        )


def list_recipes(settings: Settings, wanted: RecipeFilter) -> list[ListedRecipe | BrokenRecipe]:
    """List the recipes that match a filter, and every file that is not a valid recipe.

    Raises:
        TargetUnknownError: There is no such target.
    """
    if wanted.target is not None:
        settings.catalog.target(wanted.target)  # raises with the nearest names
    return list(_entries(settings, wanted))


def _entries(settings: Settings, wanted: RecipeFilter) -> Iterator[ListedRecipe | BrokenRecipe]:
    for name in settings.book.names:
        try:
            loaded = settings.book.load(name)
            if wanted.matches(loaded.recipe):
                summary = summary_of(loaded.recipe, settings.catalog, sizes_of(settings))
                if summary.fits or not wanted.fits:
                    yield ListedRecipe(loaded, summary)
        except OrchestratorError as error:
            yield BrokenRecipe(name, error)


def model_name(recipe: Recipe) -> str:
    """Return a model's name as its recipe writes it."""
    return getattr(recipe.model, "repo", None) or getattr(recipe.model, "path", None) or "made from a seed"
