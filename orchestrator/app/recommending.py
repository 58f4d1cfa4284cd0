"""Recommends recipes of the catalogue for a purpose."""

from __future__ import annotations

from orchestrator.app.recipe_list import BrokenRecipe, RecipeFilter, list_recipes
from orchestrator.app.settings import Settings
from orchestrator.app.sizes import sizes_of
from orchestrator.planner.known import Find
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.queueing import Targets, queue_at, users_within
from orchestrator.planner.recommendation import PURPOSES, Candidate, Recommendation, recommend
from orchestrator.planner.summary import summary_of
from orchestrator.recipe.model import GeneratedModel, Recipe, Workload
from orchestrator.serving.runtimes import runtime_of


def recommend_recipes(
    settings: Settings, purpose_name: str, target: str, workload: Workload, targets: Targets
) -> Recommendation:
    """Rank the catalogue's recipes on one target.

    Args:
        settings: The environment and the folders.
        purpose_name: One of `PURPOSES`.
        target: The machine. Recipes for another one are planned on it.
        workload: What users send.
        targets: The times that they accept.

    Raises:
        TargetUnknownError: There is no such target.
    """
    settings.catalog.target(target)
    find = sizes_of(settings)
    entries = list_recipes(settings, RecipeFilter("", "", None, None, fits=False))
    readable = [entry.recipe for entry in entries if not isinstance(entry, BrokenRecipe)]
    recipes = [recipe for recipe in readable if not isinstance(recipe.model, GeneratedModel)]  # they know nothing
    candidates = [_candidate(settings, _on(recipe, target, workload), targets, find) for recipe in recipes]
    return recommend(candidates, PURPOSES[purpose_name], workload, targets)


def _on(recipe: Recipe, target: str, workload: Workload) -> Recipe:
    serve = recipe.serve.model_copy(update={"workload": workload})
    return recipe.model_copy(update={"target": target, "serve": serve})


def _candidate(settings: Settings, recipe: Recipe, targets: Targets, find: Find) -> Candidate:
    summary = summary_of(recipe, settings.catalog, find)
    runtime = runtime_of(settings.catalog.image(recipe.image)).COSTS
    model = model_on_target(recipe, settings.catalog.target(recipe.target), find, runtime)
    asked = model.asked if summary.fits else None
    if asked is None:
        return Candidate(recipe, summary, None, 0, 0)
    most = min(asked.max_batch, recipe.serve.max_batch_size)
    return Candidate(recipe, summary, queue_at(asked), most, users_within(asked, targets, most))
