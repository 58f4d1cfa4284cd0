"""Compares ways to quantize a recipe's model in one walk over its weights, and finds what to write into the recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.app.building import Executors, build
from orchestrator.app.make_plan import ExecutorName, PlacedStep, Plan, executor_of
from orchestrator.app.planning import plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import RecipeInvalidError
from orchestrator.events import Observer, silence
from orchestrator.planner.candidates import TrialCost, trial_cost
from orchestrator.quantization.candidates import Candidate, most_demanding
from orchestrator.quantization.format_names import SMOOTHED_FORMATS
from orchestrator.recipe.model import Recipe
from orchestrator.steps import candidates as step_of_candidates
from orchestrator.values import frozen


@frozen
class Trial:
    """A recipe, and the ways to try."""

    settings: Settings
    recipe: RecipeName
    candidates: tuple[Candidate, ...]
    overrides: tuple[str, ...] = ()
    """`KEY=VALUE` each."""
    executor: ExecutorName | None = None

    @property
    def everything(self) -> tuple[str, ...]:
        """The overrides, and the values of a candidate that needs all that one of them needs."""
        return (*self.overrides, *_values(most_demanding(self.candidates)))

    def check(self) -> None:
        """Check that each candidate is a recipe.

        Raises:
            RecipeInvalidError: The recipe's format has no such choice, or there is no held-out text.
            BadInputError: As `Settings.load`.
        """
        _require_blocks(self.settings.load(self.recipe, self.overrides).recipe, self.candidates)
        for candidate in self.candidates:
            self.settings.load(self.recipe, (*self.overrides, *_values(candidate)))

    def adapt(self, made: Plan) -> Plan:
        """Replace a plan's steps by the comparison and those that it needs.

        Raises:
            RecipeInvalidError: There is no held-out text.
        """
        step = step_of_candidates.build(made.recipe, self.settings.catalog, self.candidates)
        cost, needed = self.cost(made), {mount.step for mount in step.inputs}
        before: list[PlacedStep] = []
        for placed in reversed(made.steps):
            if placed.step.name in needed:
                needed.update(mount.step for mount in placed.step.inputs)
                before.insert(0, placed)
        steps = (*before, PlacedStep(step, executor_of(step, self.executor), cost.disk))
        refusals = dict.fromkeys((*made.refusals, *cost.refusals(made.recipe.target)))
        return replace(made, steps=steps, refusals=tuple(refusals))

    def cost(self, made: Plan) -> TrialCost:
        """Calculate what the comparison takes, with the plan of its recipe."""
        held_out = made.recipe.checks.held_out
        assert held_out is not None  # noqa: S101 - the step requires it
        return trial_cost(made.model, self.candidates, held_out)

    def plan(self) -> Plan:
        """Plan the comparison. Nothing runs.

        Raises:
            PlanRefusedError: The recipe cannot work, or the comparison does not fit.
            OrchestratorError: As `check`.
        """
        self.check()
        made = self.adapt(plan(self.settings, self.recipe, self.everything, self.executor).plan)
        made.raise_refusals()
        return made

    def values(self, name: str) -> dict[str, object]:
        """Return the values that make a candidate the recipe's choice, by key path: those that differ."""
        candidate = next(one for one in self.candidates if one.name == name)
        own = self.settings.load(self.recipe).recipe.quantization
        return {f"quantization.{key}": value for key, value in candidate.values.items() if getattr(own, key) != value}


@frozen
class Tried:
    """The result of a comparison."""

    document: dict[str, Any]
    """The content of candidates.json."""
    seconds: dict[str, float]
    """By phase; those of a candidate have its name. Empty if they are not known."""
    reused: bool
    key: str


def run_trial(trial: Trial, *, executors: Executors | None = None, observer: Observer = silence) -> Tried:
    """Run a comparison, or find its result in the store.

    Args:
        trial: What to try.
        executors: How to create each executor; None: processes and Docker of this machine.
        observer: Gets the events of the build.

    Raises:
        OrchestratorError: As `Trial.plan` and `build`.
    """
    trial.check()
    built = build(
        trial.settings,
        trial.recipe,
        trial.everything,
        executor=trial.executor,
        last=step_of_candidates.STEP,
        adapt=trial.adapt,
        executors=executors,
        observer=observer,
    )
    result = built.results[-1]
    document = json.loads((result.artifact.folder / step_of_candidates.RESULT).read_bytes())
    cost = trial.settings.store.cost(result.artifact.key)
    seconds = cost.spent.seconds if cost and cost.spent else {}
    return Tried(document, dict(seconds), result.reused, result.artifact.key)


def kept_text(settings: Settings, recipe: RecipeName) -> Path:
    """Return the file that keeps a recipe's text from before its search was written into it."""
    return settings.measurements / "quality" / f"{recipe.name}.before"


def _values(candidate: Candidate) -> list[str]:
    return [f"quantization.{name}={value}" for name, value in candidate.values.items()]


def _require_blocks(recipe: Recipe, candidates: Sequence[Candidate]) -> None:
    quantization = recipe.quantization
    if quantization.method == "onepass" and quantization.format in SMOOTHED_FORMATS:
        return
    names = ", ".join(candidate.name for candidate in candidates)
    message = (
        f"{recipe.name}: {names}: ways to encode {' and '.join(SMOOTHED_FORMATS)} of method onepass; the recipe has"
        f" format {quantization.format}, method {quantization.method}"
    )
    hint = "try them with --set quantization.format=nvfp4 --set quantization.method=onepass"
    raise RecipeInvalidError(message, hint=hint)
