"""A build as commands start it: plan, resolve, run, with its view on standard error and its record in the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.cli.named import Named
from orchestrator.cli.planning import plan_recipe
from orchestrator.cli.progress import BuildView
from orchestrator.cli.record import recorded
from orchestrator.cli.resolving import insist_on_offline, resolve
from orchestrator.cli.settings import Settings
from orchestrator.events import Observer, silence
from orchestrator.executors.job import Executor
from orchestrator.executors.process import ProcessExecutor
from orchestrator.plan import ExecutorName, Plan
from orchestrator.runner import Runner, StepResult
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
    verbose: bool = False,
) -> tuple[Plan, tuple[StepResult, ...]]:
    """Build a recipe as far as a step, and show it."""
    plan = plan_build(settings, recipe, overrides, executor=executor, last=last)
    with _watched(settings, recipe.name, verbose=verbose) as observer:
        return plan, Runner(settings.store, executors(), observer).run(plan, last=last)


def build_and_bundle(
    settings: Settings, plan: Plan, *, first: str | None = None, last: str | None = None, verbose: bool = False
) -> tuple[tuple[StepResult, ...], Bundle | None]:
    """Carry a plan out, show it, and write its deployment where every step was built.

    Args:
        settings: Where everything is.
        plan: What to do.
        first: Run this step and all after it even if their results are kept.
        last: Stop after this step.
        verbose: Show every line that the steps write.
    """
    with _watched(settings, plan.recipe.name, verbose=verbose) as observer:
        runner = Runner(settings.store, executors(), observer, dist=settings.dist)
        results = runner.run(plan, first=first, last=last)
        artifacts = {result.name: result.artifact for result in results}
        return results, None if last else bundle_of(settings, plan, artifacts, observer)


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
    """Plan what will be built, with every revision resolved; refuse what cannot work.

    Args:
        settings: Where everything is.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run what can run in more than one place.
        first: A step that must exist.
        last: Another, not before it.
        locked: Use what the lock says, and nothing else.
        offline: Use no network for models and data; refuse where something is not here.
    """
    planned = plan_recipe(settings, recipe, overrides, executor, locked=locked)
    planned.plan.insist()  # before anything is asked of the network
    planned.plan.between(first, last)
    plan = resolve(settings, planned, executor, offline=offline)
    if offline:
        insist_on_offline(settings, plan, planned.lock)
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the downloads, which may still find that a file went bad
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
    """Write a plan's deployment from what its steps left; for all targets unless some are named."""
    from orchestrator.bundle.render import render  # noqa: PLC0415 - with Jinja and every target; `--until` needs none

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
    """Name how each executor is made; none is made before a step needs it."""
    return {"process": ProcessExecutor, "docker": _docker}


@contextmanager
def _watched(settings: Settings, name: str, *, verbose: bool) -> Iterator[Observer]:
    """Show a build while it runs, and let others follow it."""
    settings.store.make()
    with BuildView(verbose=verbose) as view, recorded(settings.store.root, name, view) as observer:
        yield observer


def _docker() -> Executor:
    from orchestrator.executors.docker import DockerExecutor  # noqa: PLC0415 - the SDK loads slowly; most steps need it not
    from orchestrator.executors.docker_secrets import sweep_secrets  # noqa: PLC0415 - as above

    sweep_secrets()
    return DockerExecutor()
