"""Follows a submitted job of Slurm: reports its log, and says how it ended.

The record that the job leaves in its folder is the truth. Slurm is asked only about a job without one, and for why a
command was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.errors import JobNotStartedError, NodeLostError, SlurmUnavailableError
from orchestrator.events import Waiting, Warned, from_line
from orchestrator.executors.channel import Lines
from orchestrator.executors.slurm_client import JobState, SlurmClient
from orchestrator.executors.slurm_folder import Ending, JobFolder

if TYPE_CHECKING:
    from orchestrator.events import Observer
    from orchestrator.executors.job import AbortCheck

_SLICE = 0.2
"""Seconds between two looks at a job's folder."""
_OFTEN, _SELDOM = 1.0, 10.0
"""Seconds between two questions to the controller, at the beginning and later."""
_LEAVES_WITHIN = 60.0
"""Seconds to wait for a cancelled job to leave its node."""
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


@dataclass
class Follower:
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
