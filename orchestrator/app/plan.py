"""Makes a plan from recipe, lock and target: ordered steps, their cost, and every reason for a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.app.binding import Binder
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Target
from orchestrator.errors import PlanRefusedError, RecipeInvalidError, Refusal, StepUnknownError
from orchestrator.planner.estimate import Estimate, estimate
from orchestrator.planner.rules import refusals, warnings
from orchestrator.planner.verdict import Verdict, verdict_of
from orchestrator.recipe.lock import Lock, LockedImage
from orchestrator.recipe.model import Recipe
from orchestrator.steps.registry import build_steps
from orchestrator.steps.step import Step

ExecutorName = Literal["process", "docker"]


@dataclass(frozen=True)
class PlacedStep:
    """A step and where it runs."""

    step: Step
    executor: ExecutorName


@dataclass(frozen=True)
class Plan:
    """The result of planning, before anything runs."""

    recipe: Recipe
    target: Target
    steps: tuple[PlacedStep, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[Refusal, ...]
    estimate: Estimate
    binder: Binder
    images: Mapping[str, LockedImage]
    """The image digests of the lock."""

    @property
    def verdict(self) -> Verdict:
        """The verdict in a few words."""
        return verdict_of(self.refusals, self.warnings)

    def insist(self) -> None:
        """Raise if there are refusals.

        Raises:
            PlanRefusedError: With every refusal.
        """
        if self.refusals:
            raise PlanRefusedError(self.refusals)

    def between(self, first: str | None, last: str | None) -> tuple[PlacedStep, ...]:
        """Return the steps up to `last`; `first` only has to exist.

        Raises:
            StepUnknownError: This recipe does not have the step, or the step comes too late.
        """
        names = [placed.step.name for placed in self.steps]
        for name in (first, last):
            if name is not None and name not in names:
                message = f"{self.recipe.name} has no step `{name}`"
                raise StepUnknownError(message, hint=f"its steps are: {', '.join(names)}")
        if first and last and names.index(first) > names.index(last):
            message = f"{first} comes after {last}: nothing is between them"
            raise StepUnknownError(message, hint=f"the steps run in this order: {', '.join(names)}")
        return self.steps[: names.index(last) + 1] if last else self.steps


def make_plan(
    recipe: Recipe,
    catalog: Catalog,
    lock: Lock | None,
    *,
    executor: ExecutorName | None = None,
    secrets: Mapping[str, str] | None = None,
) -> Plan:
    """Plan a recipe by arithmetic and lookups, without network, Docker or GPU.

    Args:
        recipe: The recipe, pinned if there is a lock.
        catalog: Images and targets.
        lock: The source of image digests.
        executor: Where to run the steps that can run in more than one place.
        secrets: This machine's secrets, by name.
    """
    target = catalog.target(recipe.target)
    refused = refusals(recipe, catalog)
    binder = Binder(
        catalog,
        recipe.name,
        target.architecture,
        lock.image_digests if lock else {},
        secrets or {},
        image_sizes=lock.image_sizes(target.architecture) if lock else {},
    )
    return Plan(
        recipe=recipe,
        target=target,
        steps=tuple(_place(step, executor) for step in _steps(recipe, catalog, refused)),
        refusals=refused,
        warnings=warnings(recipe, catalog),
        estimate=estimate(recipe, target),
        binder=binder,
        images=lock.images if lock else {},
    )


def _steps(recipe: Recipe, catalog: Catalog, refused: tuple[Refusal, ...]) -> tuple[Step, ...]:
    try:
        return build_steps(recipe, catalog)
    except RecipeInvalidError:
        if refused:  # the refusals say the same, and more
            return ()
        raise


def _place(step: Step, wanted: ExecutorName | None) -> PlacedStep:
    """Use containers for steps with an image. Our own code runs on the requested executor."""
    if step.image is None or (wanted == "process" and step.portable):
        return PlacedStep(step, "process")
    return PlacedStep(step, "docker")
