"""Runs a job as a job of a cluster's scheduler, which outlives the orchestrator.

The scheduler decides when and where it runs. How it ended is read from the file that the job left in its folder on the
shared file system; the scheduler is asked only about a job without such a file. A second orchestrator, after a crash or
at the same time, finds the job by its folder and adopts it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import (
    MachineError,
    SchedulerUnavailableError,
    StepError,
    StepTimeLimitError,
    by_code,
    machine_faults,
)
from orchestrator.events import StepStarted
from orchestrator.executors.interrupts import interrupts_held
from orchestrator.executors.job import AbortCheck, Job, Outcome, never_abort
from orchestrator.executors.job_folder import Ending, JobFolder
from orchestrator.executors.job_follower import Follower, SubmittedJob
from orchestrator.executors.scheduler import JobState, Scheduler

if TYPE_CHECKING:
    from orchestrator.events import Observer
    from orchestrator.store.space import Need

PATIENCE = 300.0
"""Seconds to wait for a scheduler that does not answer, or for a job that cannot start, while a build follows it."""
GRACE = 30.0
"""Seconds between asking an interrupted command to stop and killing it."""

_NO_NUMBER = "0"
"""Stands for the number of an ended job if the orchestrator was killed before it recorded the number."""
_LONGEST_NAME = 50


class ClusterExecutor:
    """Runs jobs on a cluster. The folder of a job's output must be on a file system that all nodes share.

    Args:
        scheduler: Places the jobs.
        settle: Seconds after the end of a job within which its files are visible here.
        grace: Seconds between asking an interrupted command to stop and killing it.
        patience: Seconds to wait for a scheduler that does not answer, or for a job that cannot start.
        leaves: Decides after an interrupt whether the job continues.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        settle: float,
        grace: float = GRACE,
        patience: float = PATIENCE,
        leaves: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = scheduler.name
        self.scheduler = scheduler
        self._brief = scheduler.brief()
        self._grace = grace
        self._patience = patience
        self._settle = settle
        self._leaves = leaves

    def check(self, job: Job) -> None:  # noqa: ARG002 - the cluster is the same for every job
        """Check that the scheduler answers.

        Raises:
            SchedulerUnavailableError: It does not.
        """
        self.scheduler.check()

    def needs(self, _job: Job) -> tuple[Need, ...]:
        """Need no space besides that of the output."""
        return ()

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Return the command that submits the job's request."""
        return self.scheduler.command_line(job.output.parent / self.scheduler.request_name)

    def request(self, job: Job) -> str:
        """Return the job's request."""
        return self.scheduler.request(job, job_name(job))

    def submit(self, job: Job, after: SubmittedJob | None = None) -> SubmittedJob:
        """Find the job of a folder, or submit it.

        Args:
            job: The job.
            after: The job that must succeed before it starts.

        Raises:
            JobRefusedError: The scheduler does not accept it.
        """
        folder = JobFolder(job.output.parent)
        with machine_faults(f"preparing {job.step}"):
            job.output.mkdir(parents=True, exist_ok=True)
        name, live = job_name(job), self._live(after)
        with folder.alone("submitting"):
            found = self._find(folder, name)
            if found is not None:
                if live is None and after is None:  # what it waits for has ended, and the scheduler may not know it
                    self.scheduler.start_without(found)
                return SubmittedJob(found, name, folder, adopted=True, before=after)
            folder.clear()
            with machine_faults(f"preparing {job.step}"), interrupts_held():
                folder.log.unlink(missing_ok=True)
                folder.write_private(self.scheduler.private_values(job))
                request = folder.path / self.scheduler.request_name
                request.write_text(self.request(job), encoding="utf-8")
                number = self.scheduler.submit(request, live)
                folder.write_number(number)
        return SubmittedJob(number, name, folder, adopted=False, before=after)

    def run(self, job: Job, observer: Observer, abort_check: AbortCheck = never_abort) -> Outcome:
        """Run a job to its end: the one of its folder, or a new one.

        Raises:
            MachineError: The machine, not the command, is at fault.
            KeyboardInterrupt: The user interrupts. The job was stopped and left the queue, unless it is to continue.
            StepError: Raised by `abort_check`, which stops the job; or the job reached its time limit.
        """
        return self.follow(self.submit(job), job, observer, abort_check)

    def find(self, job: Job) -> SubmittedJob | None:
        """Find the job of a folder; None if there is none that waits, runs or has left its record."""
        folder, name = JobFolder(job.output.parent), job_name(job)
        number = self._find(folder, name)
        return SubmittedJob(number, name, folder, adopted=True) if number else None

    def follow(
        self, submitted: SubmittedJob, job: Job, observer: Observer, abort_check: AbortCheck = never_abort
    ) -> Outcome:
        """Follow a submitted job to its end, as `run` does."""
        if submitted.adopted:
            observer(StepStarted(job.step, self.name, adopted=True))
        follower = Follower(self.scheduler, submitted, job.step, observer, self._patience, self._settle, abort_check)
        try:
            ending = follower.to_the_end()
        except KeyboardInterrupt:
            if self._leaves():
                raise
            self._stop(job, follower)
            raise
        except StepError:
            self._stop(job, follower)
            raise
        return _outcome(ending, job, adopted=submitted.adopted)

    def forget(self, job: Job) -> None:
        """Remove the ended job's files, except output and log."""
        folder = JobFolder(job.output.parent)
        if folder.ending() is not None:
            folder.clear()  # the scheduler may not know its end yet; if it starts the job again, the job does nothing
            return
        with suppress(SchedulerUnavailableError):
            if self.state(job) is None:
                self.discard(job)

    def discard(self, job: Job) -> None:
        """Remove a job, running or not, with its files except output and log."""
        folder = JobFolder(job.output.parent)
        name = job_name(job)
        number = folder.number() or (self._queued(name, self._brief) if folder.is_requested() else None)
        folder.clear()
        if number and self._is_known(number, name, self._brief):
            self._brief.cancel(number, name)

    def sweep(self, jobs: Sequence[Job]) -> None:
        """Remove what the scheduler still has of ended jobs. If it was killed, it shows them as waiting or running."""
        with suppress(SchedulerUnavailableError):  # a job that starts later does nothing
            for number, name in self._brief.find(*map(job_name, jobs)).items():
                self._brief.cancel(number, name)

    def state(self, job: Job) -> JobState | None:
        """Return the state of a job that waits or runs; None for every other."""
        number = JobFolder(job.output.parent).number()
        found = self._brief.state(number, job_name(job)) if number else None
        return None if found is None or found.is_over else found

    def _find(self, folder: JobFolder, name: str) -> str | None:
        """Find the number of a job that has ended with a record, waits or runs."""
        if not folder.is_requested():
            return None
        if folder.ending() is not None:
            return folder.number() or _NO_NUMBER
        number = folder.number() or self._queued(
            name, self.scheduler
        )  # killed between submitting and recording the number
        if number is None or not self._is_known(number, name, self.scheduler):
            return None
        folder.write_number(number)
        return number

    @staticmethod
    def _queued(name: str, scheduler: Scheduler) -> str | None:
        return next(iter(scheduler.find(name)), None)

    @staticmethod
    def _is_known(number: str, name: str, scheduler: Scheduler) -> bool:
        state = scheduler.state(number, name)
        return state is not None and not state.is_over

    @staticmethod
    def _live(after: SubmittedJob | None) -> str | None:
        """Return the number of a job to wait for; None if it has already ended."""
        if after is None or after.folder.ending() is not None:
            return None
        return after.number

    def _stop(self, job: Job, follower: Follower) -> None:
        """Ask the command to stop, then remove the job. A second interrupt removes it at once."""
        try:
            follower.stop(self._grace)
        finally:
            with suppress(SchedulerUnavailableError):
                self.scheduler.cancel(follower.submitted.number, follower.submitted.name, now=True)
                follower.wait_until_gone()
            JobFolder(job.output.parent).clear()


def job_name(job: Job) -> str:
    """Name a job in the queue: recipe and step for people, and its folder's digest. It is a label of DNS, too."""
    digest = hashlib.sha256(str(job.output.parent).encode()).hexdigest()
    readable = re.sub(r"[^a-z0-9-]+", "-", f"{job.recipe}-{job.step}".lower())[:_LONGEST_NAME].strip("-")
    return f"{readable}-{digest[:12]}"


def _outcome(ending: Ending, job: Job, *, adopted: bool) -> Outcome:
    """Return the outcome of a recorded ending.

    Raises:
        StepTimeLimitError: The job was stopped before its time limit.
        MachineError: The node was at fault.
    """
    if ending.time_limit:
        message = f"{job.step} did not end within the time limit of its job"
        hint = "raise `minutes` or `margins.time` in cluster.yaml; a resumable step continues from its saved state"
        raise StepTimeLimitError(message, hint=hint)
    if ending.code:
        raise (by_code(ending.code) or MachineError)(ending.message, hint=ending.hint)
    out_of_memory = ending.out_of_memory
    killed = ending.killed and not out_of_memory
    return Outcome(ending.exit_status, job.output, out_of_memory=out_of_memory, killed=killed, adopted=adopted)
