"""Builds a recipe: plans it, resolves its commits, runs its steps and writes the deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.app.access import require_token
from orchestrator.app.make_plan import ExecutorName, Plan
from orchestrator.app.model_files import counted_shape
from orchestrator.app.planning import plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import recorded
from orchestrator.app.resolving import resolve
from orchestrator.app.runner import Runner, StepResult
from orchestrator.app.settings import Settings
from orchestrator.app.sizes import sizes_of
from orchestrator.catalog.schedulers import Containers
from orchestrator.events import Observer, silence
from orchestrator.executors.cluster_containers import RUNTIMES, ClusterContainerExecutor
from orchestrator.executors.job import Executor
from orchestrator.executors.process import ProcessExecutor
from orchestrator.steps.shape import Shape
from orchestrator.store.artifact import Artifact
from orchestrator.values import frozen

if TYPE_CHECKING:
    from orchestrator.bundle.image_name import ImageName
    from orchestrator.bundle.render import Bundle

Executors = Mapping[ExecutorName, Callable[[], Executor]]
"""A function for each executor that creates it. An executor is created when a step needs it."""


@frozen
class Build:
    """The result of a build."""

    plan: Plan
    results: tuple[StepResult, ...]
    """The result of each step, in the order of the plan."""
    bundle: Bundle | None
    """The deployment; None if the build stopped after a step."""


def build(
    settings: Settings,
    recipe: RecipeName,
    overrides: Sequence[str] = (),
    *,
    executor: ExecutorName | None = None,
    first: str | None = None,
    last: str | None = None,
    locked: bool = False,
    offline: bool = False,
    limit: float | None = None,
    adapt: Callable[[Plan], Plan] = lambda made: made,
    executors: Executors | None = None,
    observer: Observer = silence,
) -> Build:
    """Build a recipe. Finished steps are reused.

    Args:
        settings: The environment and the folders.
        recipe: The recipe.
        overrides: `KEY=VALUE` each.
        executor: Where to run the steps that can run in more than one place.
        first: Run this step and all later ones even if their results are cached.
        last: Stop after this step, and write no deployment.
        locked: Use only what the lock lists.
        offline: Use no network for models and data. Refuse if a file is missing locally.
        limit: Seconds of one step; None: as long as it takes.
        adapt: Changes the plan, once more with its commits.
        executors: How to create each executor; None: processes and Docker of this machine.
        observer: Gets the events of the build, in the thread of the caller.

    Raises:
        PlanRefusedError: The recipe cannot work on its target or image. Nothing was downloaded.
        OrchestratorError: Another error, of its kind. Finished steps stay in the store.
    """
    planned = plan(settings, recipe, overrides, executor, locked=locked)
    planned = replace(planned, plan=adapt(planned.plan))
    planned.plan.raise_refusals()
    steps = [placed.step.name for placed in planned.plan.between(first, last)]  # before any network request
    if not offline:
        require_token(settings, planned.plan)
    resolved = adapt(resolve(settings, planned, offline=offline))
    executors = executors or executors_of(settings, offline=offline)
    settings.store.make()
    with recorded(settings.store.root, resolved.recipe.name, steps, observer) as recorder:
        runner = Runner(settings.store, executors, recorder, dist=settings.dist, limit=limit)
        results = runner.run(resolved, first=first, last=last)
        artifacts = {result.name: result.artifact for result in results}
        return Build(resolved, results, None if last else render_bundle(settings, resolved, artifacts, recorder))


def render_bundle(
    settings: Settings,
    resolved: Plan,
    artifacts: Mapping[str, Artifact],
    observer: Observer = silence,
    *,
    targets: Sequence[str] = (),
    embed_model: bool = False,
    image_name: ImageName | None = None,
) -> Bundle:
    """Write a plan's deployment from the results of its steps.

    Args:
        settings: The environment and the folders.
        resolved: The plan.
        artifacts: The result of each step, by its name.
        observer: Gets warnings.
        targets: The ways to deploy; all that apply if none is named.
        embed_model: Put the model into the image.
        image_name: The name under which the bundle's image is pulled.
    """
    from orchestrator.bundle.render import render  # noqa: PLC0415 - loads Jinja and every target

    return render(
        resolved.recipe,
        settings.catalog,
        artifacts,
        images=resolved.images,
        store=settings.store,
        dist=settings.dist,
        targets=targets,
        embed_model=embed_model,
        image_name=image_name,
        find=sizes_of(settings),
        counted=counted_shape(artifacts[Shape(resolved.recipe, settings.catalog).checkpoint_step].folder),
        observer=observer,
    )


def executors_of(settings: Settings, *, offline: bool = False, containers: Containers = "docker") -> Executors:
    """Return the executors of this machine. Offline, downloads use only the Hub's cache.

    Args:
        settings: The environment and the folders.
        offline: Use no network for models and data.
        containers: The program that runs containers.
    """
    environment = {**settings.environment, "HF_HUB_OFFLINE": "1"} if offline else settings.environment
    if containers in RUNTIMES:
        return {
            "process": lambda: ProcessExecutor(environment),
            "docker": lambda: ClusterContainerExecutor(RUNTIMES[containers], environment),
        }
    return {"process": lambda: ProcessExecutor(environment), "docker": _docker}


def _docker() -> Executor:
    from orchestrator.executors.docker import DockerExecutor  # noqa: PLC0415 - the SDK loads slowly
    from orchestrator.executors.docker_secrets import sweep_secrets  # noqa: PLC0415 - as above

    sweep_secrets()
    return DockerExecutor()
