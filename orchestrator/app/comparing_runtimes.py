"""Compares the runtimes that may serve a recipe's checkpoint: what is refused, predicted speed, known faults."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.app.comparing import family_of
from orchestrator.app.settings import Settings
from orchestrator.app.sizes import sizes_of
from orchestrator.catalog.image import RuntimeName
from orchestrator.errors import Refusal
from orchestrator.planner.estimate import decode_of
from orchestrator.planner.figures import Figure
from orchestrator.planner.rule_input import RuleInput, rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.recipe.model import Recipe
from orchestrator.serving.runtimes import RUNTIMES
from orchestrator.serving.server import Runtime
from orchestrator.values import frozen

_OF_ONE_RUNTIME = frozenset({"backend", "engine"})
"""Fields of a recipe that another runtime does not have."""


@frozen
class RuntimeRow:
    """One recipe with one runtime."""

    recipe: str
    format: str
    runtime: str
    """Its name in sentences."""
    image: str
    """The recipe's own image, else the newest of the catalogue that serves it."""
    refused: tuple[Refusal, ...]
    known: tuple[Refusal, ...]
    """What may go wrong, known faults among it."""
    decode: Figure | None
    """Tokens per second of one request; None if it is refused, or its sizes are not known."""


def compare_runtimes(settings: Settings, model: str) -> tuple[RuntimeRow, ...]:
    """Plan the recipes of a model with every runtime, one recipe for each format.

    Args:
        settings: The environment and the folders.
        model: A recipe, or the beginning of recipes' names.

    Raises:
        RecipeUnknownError: No recipe has such a name.
    """
    names = family_of(settings, model) or (model,)
    recipes = [settings.book.load(name).recipe for name in names]
    by_format = {recipe.quantization.format: recipe for recipe in reversed(recipes)}
    chosen = [recipe for recipe in recipes if by_format[recipe.quantization.format] is recipe]
    return tuple(_row(settings, recipe, name) for recipe in chosen for name in RUNTIMES)


def _row(settings: Settings, recipe: Recipe, name: RuntimeName) -> RuntimeRow:
    tried = [(given, refusals(given)) for given in _inputs(settings, recipe, name)]
    given, refused = next(((given, found) for given, found in tried if not found), tried[0])
    return RuntimeRow(
        recipe=recipe.name,
        format=recipe.quantization.format,
        runtime=RUNTIMES[name].LABEL,
        image=given.recipe.image,
        refused=refused,
        known=warnings(given),
        decode=None if refused else decode_of(given.model),
    )


def _inputs(settings: Settings, recipe: Recipe, name: RuntimeName) -> Iterator[RuleInput]:
    """Yield the recipe as it is if it has this runtime, else with each image of the runtime, the newest first."""
    find, images = sizes_of(settings), settings.catalog.images
    if images[recipe.image].runtime == name:
        yield rule_input(recipe, settings.catalog, find)
        return
    for image in reversed([key for key, entry in images.items() if entry.runtime == name and entry.serves]):
        yield rule_input(_with_image(recipe, image, RUNTIMES[name]), settings.catalog, find)


def _with_image(recipe: Recipe, image: str, runtime: Runtime) -> Recipe:
    """Replace the image, and leave out the settings that are options of another runtime."""
    fields = recipe.model_dump(exclude_unset=True, exclude=set(_OF_ONE_RUNTIME))
    serve = {key: value for key, value in fields.get("serve", {}).items() if key not in ("options", "environment")}
    return Recipe.model_validate(runtime.adopted({**fields, "image": image, "serve": serve}))
