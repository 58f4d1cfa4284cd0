"""Follows and cancels the jobs of a cluster that another process submitted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.app.cluster_jobs import Chain, remove_chain
from orchestrator.app.outcome import tail_of
from orchestrator.app.record import Ended, error_of, read_line
from orchestrator.app.settings import Settings
from orchestrator.errors import (
    DependencyMissingError,
    NodeLostError,
    OrchestratorError,
    SchedulerUnavailableError,
    StepFailedError,
    StepKilledError,
    StepOutOfMemoryError,
)
from orchestrator.events import Event, LogLine, Observer, StepDone, StepReused
from orchestrator.executors.cluster import ClusterExecutor
from orchestrator.executors.job import Job, Outcome
from orchestrator.executors.job_folder import JobFolder
from orchestrator.executors.scheduler import Resources

_SLICE = 1.0
"""Seconds between two looks for a job that a build will submit."""


@dataclass
class Reader:
    """Turns the lines of a job, which is a build, into its events."""

    step: str
    observer: Observer
    ended: Ended | None = None
    seconds: float | None = None
    """How long the step took; None if its result was found."""
    is_reused: bool = False

    def __call__(self, event: Event) -> None:
        """Report an event, or what a line of the job says."""
        found = read_line(event.text) if isinstance(event, LogLine) else event
        match found:
            case Ended():
                self.ended = found
            case StepReused(step=step) if step != self.step:  # the results of earlier jobs
                pass
            case None:
                self.observer(event)
            case StepReused():
                self.is_reused = True
                self.observer(found)
            case StepDone(step=step, seconds=seconds) if step == self.step:
                self.seconds = seconds
                self.observer(found)
            case _:
                self.observer(found)


def job_error(job: Job, outcome: Outcome, ended: Ended | None) -> OrchestratorError:
    """Return the error with which a job's build ended, of its kind."""
    if outcome.out_of_memory:
        message = f"{job.step} used more memory than its job had, and was killed"
        return StepOutOfMemoryError(message, hint="raise `memory_gb` or `margins.memory` in cluster.yaml")
    if ended and ended.code:
        return error_of(ended)
    if outcome.killed:
        message = f"{job.step}: its job was ended from outside (exit status {outcome.exit_status})"
        hint = "run the same command again; finished steps are kept. If that repeats, raise `memory_gb` in cluster.yaml"
        return StepKilledError(message, hint=hint)
    tail = tail_of(JobFolder(job.output.parent).log)
    return StepFailedError(f"{job.step}: its job ended with exit status {outcome.exit_status}{tail}")


def chains_of(settings: Settings, recipe: str) -> tuple[Chain, ...]:
    """Return the chains of a recipe whose build has not ended, or was killed or left."""
    return tuple(chain for chain in Chain.unfinished(settings) if chain.jobs[0].recipe == recipe)


def follow_chain(settings: Settings, chain: Chain, observer: Observer) -> None:
    """Follow the jobs of a chain that another process submitted, and submit none. An interrupt leaves them.

    It ends at a job that was not submitted, unless a build runs that submits it.

    Raises:
        OrchestratorError: The error with which a job ended.
    """
    executor = executor_of(settings, chain)
    for job in chain.jobs:
        while (submitted := executor.find(job)) is None and _is_to_come(executor, job) and _has_build(settings, chain):
            time.sleep(_SLICE)
        if submitted is None:
            if not chain.folder.exists() or _is_to_come(executor, job):  # its build took the results, or was left
                return
            title = executor.scheduler.title
            message = f"{job.recipe}: {title} does not know the job of {job.step} any more, and it left no record"
            raise NodeLostError(message, hint="build again: finished steps are kept")
        reader = Reader(job.step, observer)
        outcome = executor.follow(submitted, job, reader)
        if outcome.exit_status:
            raise job_error(job, outcome, reader.ended)


def cancel_chain(settings: Settings, chain: Chain) -> None:
    """Remove the jobs of a chain from the queue, and its folder. Finished steps stay in the store.

    Raises:
        SchedulerUnavailableError: The scheduler does not answer, so the jobs stay.
    """
    executor = executor_of(settings, chain)
    executor.check(chain.jobs[0])
    for job in reversed(chain.jobs):
        executor.discard(job)
    remove_chain(chain)


def states_of(settings: Settings, recipe: str | None = None) -> dict[str, dict[str, str]]:
    """Return the state of each unfinished job, by recipe and step.

    It is `queued (Resources)`, `running`, `lost`, `not submitted`, or `unknown` if the scheduler does not answer.
    The state of an ended job is that of its step.
    """
    found: dict[str, dict[str, str]] = {}
    for chain in Chain.unfinished(settings):
        if recipe in (None, chain.jobs[0].recipe):
            found.setdefault(chain.jobs[0].recipe, {}).update(states_in(settings, chain))
    return {name: states for name, states in found.items() if states}


def states_in(settings: Settings, chain: Chain) -> dict[str, str]:
    """Return the states of a chain's unfinished jobs by step, as `states_of` does."""
    executor = executor_of(settings, chain)
    return {
        job.step: "not submitted" if _is_to_come(executor, job) else _state(executor, job)
        for job in chain.jobs
        if JobFolder(job.output.parent).ending() is None
    }


def is_in_use(settings: Settings, chain: Chain) -> str:
    """Return why a chain is in use: one of its jobs waits, runs, or may do so; empty if it is not."""
    over = ("lost", "not submitted")
    live = (f"{step} is {state}" for step, state in states_in(settings, chain).items() if state not in over)
    return next(live, "")


def _is_to_come(executor: ClusterExecutor, job: Job) -> bool:
    """Tell whether a job is submitted after the success of another one, and was not yet."""
    return not (executor.scheduler.chains or JobFolder(job.output.parent).is_requested())


def _has_build(settings: Settings, chain: Chain) -> bool:
    """Tell whether a build of this machine, or of another, follows the chain and submits its jobs."""
    with settings.store.try_lock(chain.folder.name) as is_free:
        return chain.folder.exists() and not is_free


def _state(executor: ClusterExecutor, job: Job) -> str:
    try:
        state = executor.state(job)
    except (SchedulerUnavailableError, DependencyMissingError):
        return "unknown"
    if state is None:
        return "lost"
    return f"queued ({state.reason})" if state.is_waiting else "running"


def executor_of(
    settings: Settings,
    chain: Chain,
    resources: Callable[[Job], Resources] | None = None,
    leaves: Callable[[], bool] = lambda: True,
) -> ClusterExecutor:
    """Return the executor of a chain.

    Args:
        settings: The environment.
        chain: The chain.
        resources: Returns what a job requests; None for an executor that submits nothing.
        leaves: Decides after an interrupt whether the jobs continue.
    """
    nothing = Resources(minutes=1, memory=0)
    scheduler = chain.site.scheduler(resources or (lambda _job: nothing), settings.environment)
    return ClusterExecutor(scheduler, settle=chain.site.cluster.settle_seconds, leaves=leaves)
