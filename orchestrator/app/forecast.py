"""Predicts a run: which steps have results, and the exact job of each other step. Changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from orchestrator.app.make_plan import PlacedStep, Plan
from orchestrator.errors import ArtifactCorruptError
from orchestrator.executors.job import Job
from orchestrator.store.artifact import Artifact
from orchestrator.store.store import Store
from orchestrator.values import frozen

Decision = Literal["run", "reuse", "later"]


@frozen
class Forecast:
    """The state of one step, and the job that would run."""

    placed: PlacedStep
    decision: Decision
    """`later`: it depends on the result of an earlier step."""
    job: Job
    artifact: Artifact | None
    """The result in the store, if there is one."""


def forecast(plan: Plan, store: Store, work: Path) -> tuple[Forecast, ...]:
    """Describe a run with its exact jobs, without changing anything.

    Args:
        plan: The plan.
        store: The store with results of earlier runs.
        work: Placeholder for the parent of new folders, one folder a step.
    """
    artifacts: dict[str, Artifact] = {}
    forecasts = []
    for placed in plan.steps:
        step = placed.step
        known = all(mount.step in artifacts for mount in step.inputs)
        key = plan.binder.key(step, placed.executor, artifacts) if known else "0" * 64
        artifact = _find_quietly(store, key) if known else None
        if artifact:
            artifacts[step.name] = artifact
        decision: Decision = "reuse" if artifact else "run" if known else "later"
        folders = {
            mount.step: artifacts[mount.step].folder if mount.step in artifacts else work / mount.step / "out"
            for mount in step.inputs
        }
        job = plan.binder.job(step, placed.executor, key, folders, work / step.name)
        forecasts.append(Forecast(placed, decision, job, artifact))
    return tuple(forecasts)


def _find_quietly(store: Store, key: str) -> Artifact | None:
    try:
        return store.find(key)
    except ArtifactCorruptError:
        return None
