"""Builds a recipe: plan, resolve and run it, record its events in the store, and write the deployment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.app.named import Named
from orchestrator.app.plan import ExecutorName, Plan
from orchestrator.app.planning import plan_recipe
from orchestrator.app.record import recorded
from orchestrator.app.resolving import insist_on_offline, resolve
from orchestrator.app.runner import Runner, StepResult
from orchestrator.app.settings import Settings
from orchestrator.events import Observer, silence
from orchestrator.executors.job import Executor
from orchestrator.executors.process import ProcessExecutor
from orchestrator.store.artifact import Artifact

if TYPE_CHECKING:
    from orchestrator.bundle.render import Bundle


def build_recipe(
    settings: Settings,
    recipe: Named,
    overrides: Sequence[str] = (),
    *,
    executor: ExecutorName | None = None,
    last: str | None = None,
    observer: Observer = silence,
) -> tuple[Plan, tuple[StepResult, ...]]:
    """Build a recipe up to a step.

    Args:
        settings: Where everything is.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run the steps that can run in more than one place.
        last: Stop after this step.
        observer: Gets the events of the build.

    Raises:
        OrchestratorError: Of its kind. Finished steps stay published.
    """
    plan = plan_build(settings, recipe, overrides, executor=executor, last=last)
    with _recorded(settings, recipe.name, observer) as recorder:
        return plan, Runner(settings.store, executors(), recorder).run(plan, last=last)


def build_and_bundle(
    settings: Settings, plan: Plan, *, first: str | None = None, last: str | None = None, observer: Observer = silence
) -> tuple[tuple[StepResult, ...], Bundle | None]:
    """Run a plan, and write the deployment if every step was built.

    Args:
        settings: The folders and options of the command.
        plan: The plan.
        first: Run this step and all later ones even if their results are cached.
        last: Stop after this step.
        observer: Gets the events of the build.
    """
    with _recorded(settings, plan.recipe.name, observer) as recorder:
        runner = Runner(settings.store, executors(), recorder, dist=settings.dist)
        results = runner.run(plan, first=first, last=last)
        artifacts = {result.name: result.artifact for result in results}
        return results, None if last else bundle_of(settings, plan, artifacts, recorder)


def plan_build(
    settings: Settings,
    recipe: Named,
    overrides: Sequence[str] = (),
    *,
    executor: ExecutorName | None = None,
    first: str | None = None,
    last: str | None = None,
    locked: bool = False,
    offline: bool = False,
) -> Plan:
    """Plan the build with every revision resolved. Refuse a plan that cannot work.

    Args:
        settings: Where everything is.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run the steps that can run in more than one place.
        first: A step that must exist.
        last: A step that must exist and must not come before `first`.
        locked: Use only what the lock lists.
        offline: Use no network for models and data. Refuse if a file is missing locally.
    """
    planned = plan_recipe(settings, recipe, overrides, executor, locked=locked)
    planned.plan.insist()  # before any network request
    planned.plan.between(first, last)
    plan = resolve(settings, planned, executor, offline=offline)
    if offline:
        insist_on_offline(settings, plan, planned.lock)
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the downloads, which may still find a corrupt file
    return plan


def bundle_of(
    settings: Settings,
    plan: Plan,
    artifacts: Mapping[str, Artifact],
    observer: Observer = silence,
    *,
    targets: Sequence[str] = (),
    embed_model: bool = False,
) -> Bundle:
    """Write a plan's deployment from the results of its steps, for all targets or the named ones."""
    from orchestrator.bundle.render import render  # noqa: PLC0415 - loads Jinja and every target

    return render(
        plan.recipe,
        settings.catalog,
        artifacts,
        images=plan.images,
        store=settings.store,
        dist=settings.dist,
        targets=targets,
        embed_model=embed_model,
        observer=observer,
    )


def executors() -> Mapping[ExecutorName, Callable[[], Executor]]:
    """Return a factory for each executor. An executor is created when a step needs it."""
    return {"process": ProcessExecutor, "docker": _docker}


@contextmanager
def _recorded(settings: Settings, name: str, observer: Observer) -> Iterator[Observer]:
    """Record a build while it runs, for `attach`."""
    settings.store.make()
    with recorded(settings.store.root, name, observer) as recorder:
        yield recorder


def _docker() -> Executor:
    from orchestrator.executors.docker import DockerExecutor  # noqa: PLC0415 - the SDK loads slowly
    from orchestrator.executors.docker_secrets import sweep_secrets  # noqa: PLC0415 - as above

    sweep_secrets()
    return DockerExecutor()
