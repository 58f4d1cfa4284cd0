"""A build as commands start it: plan, resolve, run, with its view on standard error."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from orchestrator.bundle.render import Bundle, render
from orchestrator.cli.planning import insist_on_offline, plan_recipe, resolve
from orchestrator.cli.progress import BuildView
from orchestrator.cli.settings import Settings
from orchestrator.executors.job import Executor
from orchestrator.executors.process import ProcessExecutor
from orchestrator.plan import ExecutorName, Plan
from orchestrator.runner import Runner, StepResult
from orchestrator.store.artifact import Artifact


def build_recipe(
    settings: Settings,
    name: str,
    overrides: Sequence[str] = (),
    *,
    executor: ExecutorName | None = None,
    first: str | None = None,
    last: str | None = None,
    verbose: bool = False,
    locked: bool = False,
    offline: bool = False,
) -> tuple[Plan, tuple[StepResult, ...]]:
    """Build a recipe and show it.

    Args:
        settings: Where everything is.
        name: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run what can run in more than one place.
        first: Run this step and all after it even if their results are kept.
        last: Stop after this step.
        verbose: Show every line that the steps write.
        locked: Use what the lock says, and nothing else.
        offline: Use no network for models and data; refuse where something is not here.
    """
    planned = plan_recipe(settings, name, overrides, executor, locked=locked)
    planned.plan.insist()  # before anything is asked of the network
    planned.plan.between(first, last)
    plan = resolve(settings, planned, executor, offline=offline)
    if offline:
        insist_on_offline(settings, plan, planned.lock)
        os.environ["HF_HUB_OFFLINE"] = "1"  # for the downloads, which may still find that a file went bad
    with BuildView(verbose=verbose) as view:
        return plan, Runner(settings.store, executors(), view).run(plan, first=first, last=last)


def bundle_of(settings: Settings, plan: Plan, artifacts: Mapping[str, Artifact]) -> Bundle:
    """Write a plan's deployment from what its steps left."""
    return render(
        plan.recipe,
        settings.catalog,
        artifacts,
        digests=plan.binder.image_digests,
        store=settings.store,
        dist=settings.dist,
    )


def executors() -> Mapping[ExecutorName, Callable[[], Executor]]:
    """Name how each executor is made; none is made before a step needs it."""
    return {"process": ProcessExecutor, "docker": _docker}


def _docker() -> Executor:
    from orchestrator.executors.docker import DockerExecutor  # noqa: PLC0415 - the SDK loads slowly; most steps need it not

    return DockerExecutor()
