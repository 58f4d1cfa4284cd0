"""Makes a plan from recipe, lock and target: ordered steps, their cost, and every reason for a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

from orchestrator.app.binding import Binder
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.target import Target
from orchestrator.errors import PlanRefusedError, RecipeInvalidError, Refusal, StepUnknownError
from orchestrator.planner.disk import StepDisk, disk_of_steps
from orchestrator.planner.estimate import Estimate, estimate
from orchestrator.planner.kernels import arithmetic
from orchestrator.planner.known import Find, in_catalogue
from orchestrator.planner.model_on_target import ModelOnTarget
from orchestrator.planner.queueing import Targets
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.planner.verdict import Verdict, verdict_of
from orchestrator.recipe.lock import Lock, LockedImage
from orchestrator.recipe.model import Recipe
from orchestrator.steps.registry import build_steps
from orchestrator.steps.shape import Shape
from orchestrator.steps.step import Step
from orchestrator.values import frozen

ExecutorName = Literal["process", "docker"]


@frozen
class PlacedStep:
    """A step, where it runs, and what becomes of its result."""

    step: Step
    executor: ExecutorName
    disk: StepDisk | None = None
    """The disk space that it takes; None for kilobytes."""
    deployed: bool = False
    """Whether the deployment contains its result."""


@frozen
class Plan:
    """The result of planning, before anything runs."""

    model: ModelOnTarget
    """The recipe's model on its target. All figures come from it."""
    steps: tuple[PlacedStep, ...]
    refusals: tuple[Refusal, ...]
    warnings: tuple[Refusal, ...]
    binder: Binder
    images: Mapping[str, LockedImage]
    """The image digests of the lock."""
    arithmetic: str = ""
    """How the server multiplies the weights, if that is not what the format's name says."""
    targets: Targets | None = None
    """The times that users accept."""

    @cached_property
    def estimate(self) -> Estimate:
        """What it costs. Not every command asks, and it takes half of the time of a plan."""
        return estimate(self.model, self.targets)

    @property
    def recipe(self) -> Recipe:
        """The recipe, pinned if there is a lock."""
        return self.model.recipe

    @property
    def target(self) -> Target:
        """Its machine."""
        return self.model.target

    @property
    def verdict(self) -> Verdict:
        """The verdict in a few words."""
        return verdict_of(self.refusals, self.warnings)

    def raise_refusals(self) -> None:
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
    find: Find = in_catalogue,
    executor: ExecutorName | None = None,
    secrets: Mapping[str, str] | None = None,
    targets: Targets | None = None,
) -> Plan:
    """Plan a recipe by arithmetic and lookups, without network, Docker or GPU.

    Args:
        recipe: The recipe, pinned if there is a lock.
        catalog: Images and targets.
        lock: The source of image digests.
        find: Looks up the sizes of models.
        executor: Where to run the steps that can run in more than one place.
        secrets: This machine's secrets, by name.
        targets: The times that users accept.
    """
    given = rule_input(recipe, catalog, find)
    model, refused = given.model, refusals(given)
    binder = Binder(
        catalog,
        recipe.name,
        model.target.architecture,
        lock.image_digests if lock else {},
        secrets or {},
        image_sizes=lock.image_sizes(model.target.architecture) if lock else {},
    )
    disk = {part.step: part for part in disk_of_steps(model)}
    deployed = {mount.step for mount in Shape(recipe, catalog).served_inputs}
    return Plan(
        model=model,
        steps=tuple(
            PlacedStep(step, executor_of(step, executor), disk.get(step.name), step.name in deployed)
            for step in _steps(recipe, catalog, refused)
        ),
        refusals=refused,
        warnings=warnings(given),
        binder=binder,
        images=lock.images if lock else {},
        arithmetic=arithmetic(given.image, given.target, given.weight_format),
        targets=targets,
    )


def _steps(recipe: Recipe, catalog: Catalog, refused: tuple[Refusal, ...]) -> tuple[Step, ...]:
    try:
        return build_steps(recipe, catalog)
    except RecipeInvalidError:
        if refused:  # the refusals explain it better
            return ()
        raise


def executor_of(step: Step, wanted: ExecutorName | None = None) -> ExecutorName:
    """Use containers for steps with an image. Our own code runs on the requested executor."""
    return "process" if step.image is None or (wanted == "process" and step.portable) else "docker"
