"""Plans many recipes together: their order, and what they need at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from orchestrator.app.forecast import forecast
from orchestrator.app.make_plan import ExecutorName, PlacedStep, Plan
from orchestrator.app.needs import HINT
from orchestrator.app.planning import Planned, plan, unexpected_refusals
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import OrchestratorError, PlanRefusedError, Refusal
from orchestrator.planner.duration import Span
from orchestrator.steps.sources import sources
from orchestrator.store.space import Need, require_space
from orchestrator.units import in_bytes
from orchestrator.values import frozen

_SERVING = ("load", "serve")
"""The phases that run only if the build asks its server something."""


@frozen
class Member:
    """One recipe of a batch."""

    recipe: RecipeName
    planned: Planned | None = None
    """None if it has no plan."""
    error: OrchestratorError | None = None
    """Why it cannot be built."""
    pending: tuple[PlacedStep, ...] = ()
    """The steps that have no result yet."""

    @property
    def plan(self) -> Plan:
        """Its plan, if it can be built."""
        assert self.planned is not None  # noqa: S101 - see above
        return self.planned.plan

    @cached_property
    def memory(self) -> float:
        """The most bytes of memory that one of its phases needs at once."""
        recipe, stages = self.plan.recipe, self.plan.estimate.stages
        serves = self.plan.target.gpu and (recipe.checks.serve or recipe.benchmark is not None)
        return max((stage.peak.total for stage in stages if serves or stage.phase not in _SERVING), default=0.0)

    @property
    def time(self) -> Span | None:
        """How long the phases of its pending steps are planned to take; None if that is not known."""
        return planned_time(self.plan, {placed.step.name for placed in self.pending})

    @property
    def gpus(self) -> Mapping[str, int]:
        """The number of GPUs of each step."""
        return {placed.step.name: placed.step.gpus for placed in self.planned.plan.steps} if self.planned else {}


def planned_time(plan: Plan, steps: set[str]) -> Span | None:
    """Return how long the phases of some steps are planned to take; None if that is not known."""
    found = None
    for stage in plan.estimate.stages:
        if stage.time and _runs(stage.phase, steps):
            found = found.plus(stage.time) if found else stage.time
    return found


def _runs(phase: str, steps: set[str]) -> bool:
    return phase in steps or (phase == "download" and bool(steps & {"download", "generate", "import"}))


@frozen
class Batch:
    """Recipes that are built together: those that can be, the smallest peak of memory first, and the others."""

    settings: Settings
    ready: tuple[Member, ...]
    refused: tuple[Member, ...]
    expected: tuple[Member, ...] = ()
    """Recipes that say themselves that they are refused, if all recipes were asked for."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the builds will write. What several of them download is counted once."""
        found: dict[object, Need] = {}
        for member in self.ready:
            recipe = member.plan.recipe
            downloads = sources(recipe)
            for placed in member.pending:
                if placed.disk and placed.disk.most:
                    name = placed.step.name
                    source = downloads.get(name)
                    what = source.repo if source else f"{recipe.name}: {placed.disk.what}"
                    place = self.settings.store.root
                    found.setdefault(source or (recipe.name, name), Need(place, placed.disk.most, what))
        return tuple(found.values())

    def check(self, jobs: int, *, shares_memory: bool, skips: bool) -> None:
        """Refuse before the first step what cannot work.

        Args:
            jobs: How many builds run at once.
            shares_memory: They run on one machine, and share its memory.
            skips: Recipes that are refused are left out.

        Raises:
            OrchestratorError: The error of a recipe, without `skips`.
            PlanRefusedError: The builds do not fit into memory together.
            DiskFullError: The results do not fit on the disk.
        """
        for member in self.refused:
            assert member.error is not None  # noqa: S101 - it is refused
            if not skips:
                raise member.error
        if shares_memory:
            self._check_memory(jobs)
        require_space(self.needs, HINT)

    def _check_memory(self, jobs: int) -> None:
        largest = sorted(self.ready, key=lambda member: member.memory)[-jobs:]
        if len(largest) < 2:  # noqa: PLR2004 - the plan of one has been checked
            return
        available = min(_available(member) for member in largest)
        wanted = sum(member.memory for member in largest)
        if wanted > available:
            names = ", ".join(f"{member.recipe.name} {in_bytes(member.memory)}" for member in reversed(largest))
            message = (
                f"{len(largest)} builds at once may need {in_bytes(wanted)} of memory, and {in_bytes(available)}"
                f" are available: {names}"
            )
            raise PlanRefusedError((Refusal("DOES_NOT_FIT", message, f"use --jobs {self._most_jobs(available)}"),))

    def _most_jobs(self, available: float) -> int:
        sizes = sorted((member.memory for member in self.ready), reverse=True)
        fitting = (count for count in range(len(sizes), 1, -1) if sum(sizes[:count]) <= available)
        return next(fitting, 1)


def _available(member: Member) -> float:
    return min(stage.peak.available for stage in member.plan.estimate.stages)


def plan_batch(
    settings: Settings,
    recipes: Sequence[RecipeName],
    overrides: Sequence[str] = (),
    executor: ExecutorName | None = None,
    *,
    last: str | None = None,
    locked: bool = False,
) -> Batch:
    """Plan recipes by arithmetic, without a network.

    Args:
        settings: The environment and the folders.
        recipes: The recipes; all that there are if none is named.
        overrides: `KEY=VALUE` each, for every recipe.
        executor: Where to run the steps that can run in more than one place.
        last: The builds stop after this step.
        locked: Use only what the locks list.
    """
    asked = recipes or tuple(RecipeName(name) for name in settings.book.names)
    members = [_member(settings, recipe, overrides, executor, last=last, locked=locked) for recipe in asked]
    ready = sorted((member for member in members if member.error is None), key=lambda member: member.memory)
    expected = [member for member in members if not recipes and _is_expected(member)]
    refused = (member for member in members if member.error is not None and member not in expected)
    return Batch(settings, tuple(ready), tuple(refused), tuple(expected))


def _is_expected(member: Member) -> bool:
    return member.planned is not None and member.error is not None and not unexpected_refusals(member.planned.plan)


def _member(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str],
    executor: ExecutorName | None,
    *,
    last: str | None,
    locked: bool,
) -> Member:
    try:
        planned = plan(settings.at(recipe), recipe, overrides, executor, locked=locked)
    except OrchestratorError as error:
        return Member(recipe, error=error)
    try:
        planned.plan.raise_refusals()
        wanted = {placed.step.name for placed in planned.plan.between(None, last)}
    except OrchestratorError as error:
        return Member(recipe, planned, error)
    found = forecast(planned.plan, settings.store, Path("unused"))
    pending = (one.placed for one in found if one.decision != "reuse" and one.placed.step.name in wanted)
    return Member(recipe, planned, pending=tuple(pending))
