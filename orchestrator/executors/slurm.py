"""Runs a job as a job of Slurm, which outlives the orchestrator.

Slurm decides when and where it runs. How it ended is read from the file that the job left in its folder on the shared
file system; Slurm is asked only about a job without such a file. A second orchestrator, after a crash or at the same
time, finds the job by its folder and adopts it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.errors import (
    JobNotStartedError,
    MachineError,
    NodeLostError,
    SlurmUnavailableError,
    StepError,
    StepTimeLimitError,
    by_code,
    machine_faults,
)
from orchestrator.events import StepStarted, Waiting, Warned, from_line
from orchestrator.executors.channel import Lines
from orchestrator.executors.interrupts import interrupts_held
from orchestrator.executors.job import AbortCheck, Job, Outcome, never_abort
from orchestrator.executors.slurm_client import JobState, SlurmClient
from orchestrator.executors.slurm_folder import Ending, JobFolder
from orchestrator.executors.slurm_script import Resources, ScriptWriter, private_values

if TYPE_CHECKING:
    from orchestrator.catalog.cluster import Cluster
    from orchestrator.events import Observer
    from orchestrator.store.space import Need

PATIENCE = 300.0
"""Seconds to wait for a controller that does not answer while a job runs."""

_SLICE = 0.2
"""Seconds between two looks at a job's folder."""
_OFTEN, _SELDOM = 1.0, 10.0
"""Seconds between two questions to the controller, at the beginning and later."""
_BRIEF = 5.0
"""Seconds to wait for an answer about a job that has ended, or whose state is only shown."""
_LEAVES_WITHIN = 60.0
"""Seconds to wait for a cancelled job to leave its node."""
_NO_NUMBER = "0"
"""Stands for the number of an ended job if the orchestrator was killed before it recorded the number."""
_CHUNK = 1 << 20
_NEWEST = 4096
"""Bytes at the end of a log whose middle was cut from which the reader continues."""
_BEATS = 3
"""Times `settle` without a sign of life after which a job may be dead."""
_DEPENDENCY = "Dependency"
_LAUNCH_FAILED = "launch_failed_requeued_held"
_TAIL = 12
"""Lines of the output of a failed script in its error."""
_AGAIN = "build again: finished steps are kept"
_SIGTERM = 143  # 128 + SIGTERM
_SIGKILL = 137  # 128 + SIGKILL


@dataclass(frozen=True)
class SubmittedJob:
    """A job that Slurm knows or knew."""

    number: str
    name: str
    folder: JobFolder
    adopted: bool
    """It was submitted by an earlier or another orchestrator."""
    before: SubmittedJob | None = None
    """The job that must succeed before it starts."""


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
        follower = _Follower(self._client, submitted, job.step, observer, self._patience, self._settle, abort_check)
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

    def _stop(self, job: Job, follower: _Follower) -> None:
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


@dataclass
class _Follower:
    """Reads a job's log until its end."""

    client: SlurmClient
    submitted: SubmittedJob
    step: str
    observer: Observer
    patience: float
    settle: float
    abort_check: AbortCheck
    _position: int = 0
    _lines: Lines = field(default_factory=Lines)
    _reason: str = ""
    _beat: int | None = None
    _beaten: float = 0.0

    def to_the_end(self) -> Ending:
        """Follow the log until the command has ended.

        Raises:
            MachineError: Slurm does not answer, or has lost the job.
            StepError: The job reached its time limit.
        """
        pause = _Pause()
        while (ending := self._look()) is None:
            self.abort_check()
            if pause.is_over():
                state = self._state()
                if state is None or state.is_over:
                    return self._settled(state)
                self._report(state)
                if self._is_dead(state):
                    return self._killed_unseen()
            time.sleep(_SLICE)
        return self._explained(ending)

    def stop(self, grace: float) -> None:
        """Ask the command to stop, and follow its log until it has ended or the time is over."""
        state = self.client.state(self.submitted.number, self.submitted.name)
        if state is None or state.is_over or state.is_waiting:
            return
        self.client.ask_to_stop(self.submitted.number)
        deadline = time.monotonic() + grace + _SELDOM
        while self._look() is None and time.monotonic() < deadline:
            time.sleep(_SLICE)

    def wait_until_gone(self) -> None:
        """Wait for Slurm to end the job's processes."""
        deadline = time.monotonic() + min(self.patience, _LEAVES_WITHIN)
        while time.monotonic() < deadline:
            state = self.client.state(self.submitted.number, self.submitted.name)
            if state is None or state.is_over:
                return
            time.sleep(_SLICE)

    def _look(self) -> Ending | None:
        """Report new lines. Return the ending if it is recorded."""
        ending = self.submitted.folder.ending()  # before the log, so that its last lines are read
        self._read_log()
        if ending is not None:
            self._report_lines(self._lines.end())
        return ending

    def _read_log(self) -> None:
        with suppress(FileNotFoundError), self.submitted.folder.log.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size < self._position:  # its middle was cut
                self._position = max(0, size - _NEWEST)
            stream.seek(self._position)
            while chunk := stream.read(_CHUNK):
                self._position += len(chunk)
                self._report_lines(self._lines.take(chunk))

    def _report_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.observer(from_line(line))

    def _state(self) -> JobState | None:
        """Ask for the job's state, and retry until the controller answers. None if the end is recorded meanwhile.

        Raises:
            SlurmUnavailableError: The controller does not answer for longer than we wait.
        """
        deadline, warned = time.monotonic() + self.patience, False

        def gives_up() -> bool:
            self.abort_check()
            return self.submitted.folder.ending() is not None or time.monotonic() > deadline

        while True:
            try:
                return self.client.state(self.submitted.number, self.submitted.name, gives_up)
            except SlurmUnavailableError as error:
                if self.submitted.folder.ending() is not None:
                    return None
                if time.monotonic() > deadline:
                    message = f"{self.step}: Slurm has not answered for {self.patience:.0f} s"
                    hint = "build again when it answers: the job is adopted"
                    raise SlurmUnavailableError(message, hint=hint) from error
            if not warned:
                self.observer(Warned(f"Slurm does not answer; waiting up to {self.patience:.0f} s for it"))
                warned = True
            time.sleep(_OFTEN)

    def _is_dead(self, state: JobState) -> bool:
        """Tell whether a job that runs, as Slurm says, has no process any more.

        Slurm takes minutes or hours to see that a job was killed together with its supervisor.
        """
        beat, now = self.submitted.folder.last_beat(), time.monotonic()
        if beat is None or beat != self._beat or state.is_waiting:
            self._beat, self._beaten = beat, now
            return False
        return now - self._beaten > _BEATS * max(self.settle, 1.0) and self.submitted.folder.is_free()

    def _killed_unseen(self) -> Ending:
        if ending := self._look():  # recorded since
            return ending
        self.client.cancel(self.submitted.number)
        return Ending(_SIGKILL, killed=True)

    def _start_without(self, before: SubmittedJob | None) -> None:
        """Let the job start if what it waits for has succeeded. Slurm may not know that."""
        if self._reason != _DEPENDENCY or before is None or before.folder.ending() is None:
            return
        self.client.drop_dependency(self.submitted.number)
        self.client.cancel(before.number)

    def _report(self, state: JobState) -> None:
        """Report why the job waits, once for each reason."""
        if state.reason == _DEPENDENCY:
            self._start_without(self.submitted.before)
        if not state.is_waiting or state.reason in (self._reason, "None"):
            return
        self._reason = state.reason
        self.observer(Waiting(self.step, f"job {self.submitted.number} is queued ({state.reason})"))
        if state.reason == _LAUNCH_FAILED:
            self.client.release(self.submitted.number)

    def _settled(self, state: JobState | None) -> Ending:
        """Wait until the record of an ended job is visible here.

        Raises:
            MachineError: There is none, and the machine is at fault.
            StepTimeLimitError: There is none, because Slurm ended the job at its time limit.
        """
        deadline = time.monotonic() + self.settle
        while time.monotonic() < deadline:
            if ending := self._look():
                return self._explained(ending)
            time.sleep(_SLICE)
        return self._without_record(state)

    def _without_record(self, state: JobState | None) -> Ending:
        name = f"{self.step}: job {self.submitted.number}"
        if state is None:
            message = f"{name} is gone: Slurm does not know it, and it left no record"
            raise NodeLostError(message, hint=_AGAIN)
        if state.state in ("COMPLETED", "FAILED"):
            if state.signal:
                return Ending(128 + state.signal, killed=True)
            message = f"{name} ended before its command started{self._script_log()}"
            hint = "its node needs this Python and the store at the same paths as this machine"
            raise JobNotStartedError(message, hint=hint)
        return self._as_slurm_says(Ending(_SIGTERM, killed=True), state)

    def _as_slurm_says(self, ending: Ending, state: JobState) -> Ending:
        """Return the ending of a killed command with Slurm's reason.

        Raises:
            NodeLostError: The node was lost.
        """
        match state.state:
            case "OUT_OF_MEMORY":
                return replace(ending, exit_status=_SIGKILL, out_of_memory=True)
            case "TIMEOUT" | "DEADLINE":
                return replace(ending, time_limit=True)
            case "NODE_FAIL" | "BOOT_FAIL":
                message = f"{self.step}: job {self.submitted.number} was lost with its node ({state.state})"
                raise NodeLostError(message, hint=_AGAIN)
            case _:
                return ending

    def _script_log(self) -> str:
        try:
            text = self.submitted.folder.script_log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in text.splitlines()[-_TAIL:])

    def _explained(self, ending: Ending) -> Ending:
        """Ask why a command was killed: the job itself knows only the signal."""
        if ending.exit_status not in (_SIGKILL, _SIGTERM) or ending.time_limit:
            return ending
        deadline = time.monotonic() + self.settle
        with suppress(SlurmUnavailableError):
            while time.monotonic() < deadline:
                state = self.client.state(self.submitted.number, self.submitted.name)
                if state is None:
                    return ending
                if state.is_over:
                    return self._as_slurm_says(ending, state)
                time.sleep(_SLICE)
        return ending


@dataclass
class _Pause:
    """Decides when to ask the controller again: often at the beginning, seldom later."""

    _started: float = field(default_factory=time.monotonic)
    _asked: float = 0.0

    def is_over(self) -> bool:
        """Tell whether it is time to ask, and count it as asked."""
        now = time.monotonic()
        if now - self._asked < min(_SELDOM, max(_OFTEN, (now - self._started) / 20)):
            return False
        self._asked = now
        return True


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
