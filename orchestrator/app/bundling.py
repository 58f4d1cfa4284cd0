"""Writes a deployment again from finished steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.app.building import render_bundle
from orchestrator.app.forecast import forecast
from orchestrator.app.make_plan import ExecutorName, Plan
from orchestrator.app.planning import plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.resolving import resolve
from orchestrator.app.settings import Settings
from orchestrator.bundle.image_name import parse_image_name
from orchestrator.errors import BundleIncompleteError
from orchestrator.events import Observer, silence
from orchestrator.store.artifact import Artifact

if TYPE_CHECKING:
    from orchestrator.bundle.render import Bundle


def write_bundle(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str] = (),
    *,
    executor: ExecutorName | None = None,
    targets: Sequence[str] = (),
    embed_model: bool = False,
    image: str | None = None,
    observer: Observer = silence,
) -> Bundle:
    """Write a recipe's deployment from finished steps. Run no step.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where the steps ran that can run in more than one place.
        targets: The ways to deploy; all that apply if none is named.
        embed_model: Put the model into the image.
        image: The name under which the bundle's image is pulled, with or without a tag.
        observer: Gets warnings.

    Raises:
        BundleIncompleteError: A step has no result yet.
        BundleTargetError: It is no name of an image.
    """
    image_name = parse_image_name(image) if image else None
    resolved = resolve(settings, plan(settings, recipe, overrides, executor))
    artifacts = _finished_steps(settings, resolved, recipe)
    return render_bundle(
        settings, resolved, artifacts, observer, targets=targets, embed_model=embed_model, image_name=image_name
    )


def _finished_steps(settings: Settings, resolved: Plan, recipe: RecipeName) -> dict[str, Artifact]:
    steps = forecast(resolved, settings.store, Path("unused"))
    missing = [step.placed.step.name for step in steps if step.artifact is None]
    if missing:
        message = f"{recipe.name} is not built: {', '.join(missing)} left to do"
        raise BundleIncompleteError(message, hint=f"orchestrator build {recipe}")
    return {step.placed.step.name: step.artifact for step in steps if step.artifact}
