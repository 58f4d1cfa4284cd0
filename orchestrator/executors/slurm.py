"""Runs a job as a job of Slurm, which outlives the orchestrator.

Slurm decides when and where it runs. How it ended is read from the file that the job left in its folder on the shared
file system; Slurm is asked only about a job without such a file. A second orchestrator, after a crash or at the same
time, finds the job by its folder and adopts it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import (
    MachineError,
    SlurmUnavailableError,
    StepError,
    StepTimeLimitError,
    by_code,
    machine_faults,
)
from orchestrator.events import StepStarted
from orchestrator.executors.interrupts import interrupts_held
from orchestrator.executors.job import AbortCheck, Job, Outcome, never_abort
from orchestrator.executors.slurm_client import JobState, SlurmClient
from orchestrator.executors.slurm_folder import Ending, JobFolder
from orchestrator.executors.slurm_follower import Follower, SubmittedJob
from orchestrator.executors.slurm_script import Resources, ScriptWriter, private_values

if TYPE_CHECKING:
    from orchestrator.catalog.cluster import Cluster
    from orchestrator.events import Observer
    from orchestrator.store.space import Need

PATIENCE = 300.0
"""Seconds to wait for a controller that does not answer while a job runs."""

_BRIEF = 5.0
"""Seconds to wait for an answer about a job that has ended, or whose state is only shown."""
_NO_NUMBER = "0"
"""Stands for the number of an ended job if the orchestrator was killed before it recorded the number."""


class SlurmExecutor:
    """Runs jobs on a cluster. The folder of a job's output must be on a file system that all nodes share.

    Args:
        cluster: The site's settings.
        resources: Returns what a job requests.
        environment: The source of the few inherited variables.
        grace: Seconds between asking an interrupted command to stop and killing it.
        patience: Seconds to wait for a controller that does not answer.
        leaves: Decides after an interrupt whether the job continues.
    """

    name = "slurm"

    def __init__(
        self,
        cluster: Cluster,
        resources: Callable[[Job], Resources],
        *,
        environment: Mapping[str, str] = os.environ,
        grace: float = 30.0,
        patience: float = PATIENCE,
        leaves: Callable[[], bool] = lambda: False,
    ) -> None:
        self._cluster = cluster
        self._resources = resources
        self._environment = environment
        self._client = SlurmClient(environment)
        self._brief = SlurmClient(environment, seconds=_BRIEF)
        self._grace = grace
        self._patience = patience
        self._settle = cluster.settle_seconds
        self._leaves = leaves

    def check(self, job: Job) -> None:  # noqa: ARG002 - the cluster is the same for every job
        """Check that Slurm's controller answers.

        Raises:
            SlurmUnavailableError: It does not.
        """
        self._client.check()

    def needs(self, _job: Job) -> tuple[Need, ...]:
        """Need no space besides that of the output."""
        return ()

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Return the command that submits the job's script."""
        return ("sbatch", "--parsable", "--no-requeue", str(JobFolder(job.output.parent).script))

    def script(self, job: Job) -> str:
        """Return the job's script."""
        return ScriptWriter(self._cluster, self._environment, self._grace).write(
            job, job_name(job), self._resources(job)
        )

    def submit(self, job: Job, after: SubmittedJob | None = None) -> SubmittedJob:
        """Find the job of a folder, or submit it.

        Args:
            job: The job.
            after: The job that must succeed before it starts.

        Raises:
            JobRefusedError: Slurm does not accept it.
        """
        folder = JobFolder(job.output.parent)
        with machine_faults(f"preparing {job.step}"):
            job.output.mkdir(parents=True, exist_ok=True)
        name, live = job_name(job), self._live(after)
        with folder.alone("submitting"):
            found = self._find(folder, name)
            if found is not None:
                if live is None and after is None:  # what it waits for has ended, and Slurm may not know it
                    self._client.drop_dependency(found)
                return SubmittedJob(found, name, folder, adopted=True, before=after)
            folder.clear()
            with machine_faults(f"preparing {job.step}"), interrupts_held():
                folder.log.unlink(missing_ok=True)
                folder.write_private(private_values(job, self._environment))
                folder.script.write_text(self.script(job), encoding="utf-8")
                number = self._client.submit(folder.script, live)
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
        follower = Follower(self._client, submitted, job.step, observer, self._patience, self._settle, abort_check)
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
            folder.clear()  # Slurm may not know its end yet; if it starts the job again, the job does nothing
            return
        with suppress(SlurmUnavailableError):
            if self.state(job) is None:
                self.discard(job)

    def discard(self, job: Job) -> None:
        """Remove a job, running or not, with its files except output and log."""
        folder = JobFolder(job.output.parent)
        number = folder.number() or (self._queued(job_name(job), self._brief) if folder.script.exists() else None)
        folder.clear()
        if number and self._is_known(number, job_name(job), self._brief):
            self._brief.cancel(number)

    def sweep(self, jobs: Sequence[Job]) -> None:
        """Remove what Slurm still has of ended jobs. A controller that was killed shows them as waiting or running."""
        with suppress(SlurmUnavailableError):  # a job that starts later does nothing
            for number in self._brief.find(*map(job_name, jobs)):
                self._brief.cancel(number)

    def state(self, job: Job) -> JobState | None:
        """Return the state of a job that waits or runs; None for every other."""
        number = JobFolder(job.output.parent).number()
        found = self._brief.state(number, job_name(job)) if number else None
        return None if found is None or found.is_over else found

    def _find(self, folder: JobFolder, name: str) -> str | None:
        """Find the number of a job that has ended with a record, waits or runs."""
        if not folder.script.exists():
            return None
        if folder.ending() is not None:
            return folder.number() or _NO_NUMBER
        number = folder.number() or self._queued(name, self._client)  # killed between sbatch and recording the number
        if number is None or not self._is_known(number, name, self._client):
            return None
        folder.write_number(number)
        return number

    @staticmethod
    def _queued(name: str, client: SlurmClient) -> str | None:
        return next(iter(client.find(name)), None)

    @staticmethod
    def _is_known(number: str, name: str, client: SlurmClient) -> bool:
        state = client.state(number, name)
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
            with suppress(SlurmUnavailableError):
                self._client.cancel(follower.submitted.number, now=True)
                follower.wait_until_gone()
            JobFolder(job.output.parent).clear()


def job_name(job: Job) -> str:
    """Name a job in the queue: recipe and step for people, and its folder's digest."""
    digest = hashlib.sha256(str(job.output.parent).encode()).hexdigest()
    return f"{job.recipe}.{job.step}.{digest[:12]}"


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
