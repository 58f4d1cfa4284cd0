"""Recipe, lock and target become a plan: ordered steps, what they cost, and every reason why it cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.binding import Binder
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
    """What will be done, before anything is."""

    recipe: Recipe
    target: Target
    steps: tuple[PlacedStep, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[Refusal, ...]
    estimate: Estimate
    binder: Binder
    images: Mapping[str, LockedImage]
    """What the lock says of images."""

    @property
    def verdict(self) -> Verdict:
        """Whether it fits, in a few words."""
        return verdict_of(self.refusals, self.warnings)

    def insist(self) -> None:
        """Raise what speaks against it.

        Raises:
            PlanRefusedError: With every reason.
        """
        if self.refusals:
            raise PlanRefusedError(self.refusals)

    def between(self, first: str | None, last: str | None) -> tuple[PlacedStep, ...]:
        """Give the steps up to `last`; `first` only has to exist.

        Raises:
            StepUnknownError: For a step that this recipe does not have, or that comes too late.
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
    """Plan a recipe: pure arithmetic and lookups, no network, no Docker, no GPU.

    Args:
        recipe: The recipe, pinned where there is a lock.
        catalog: Images and targets.
        lock: Where image digests come from.
        executor: Where to run the steps that can run in more than one place.
        secrets: What this machine knows, by name.
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
    """Containers for what has an image; our own code runs wherever it is wanted."""
    if step.image is None or (wanted == "process" and step.portable):
        return PlacedStep(step, "process")
    return PlacedStep(step, "docker")
