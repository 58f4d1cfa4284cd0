"""Follows a submitted job of a cluster: reports its log, and says how it ended.

The record that the job leaves in its folder is the truth. The scheduler is asked only about a job without one, and for
why a command was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.errors import ClusterAccessError, JobNotStartedError, NodeLostError, SchedulerUnavailableError
from orchestrator.events import Waiting, Warned, from_line
from orchestrator.executors.channel import Lines
from orchestrator.executors.job_folder import Ending, JobFolder
from orchestrator.executors.scheduler import JobState, Scheduler
from orchestrator.values import frozen

if TYPE_CHECKING:
    from orchestrator.events import Observer
    from orchestrator.executors.job import AbortCheck

_SLICE = 0.2
"""Seconds between two looks at a job's folder."""
_OFTEN, _SELDOM = 1.0, 10.0
"""Seconds between two questions to the scheduler, at the beginning and later."""
_ASKED_IN_A_TIME = 5
"""Between the two, the next question comes after this part of the time that has passed: forty builds may follow."""
_LEAVES_WITHIN = 60.0
"""Seconds to wait for a cancelled job to leave its node."""
_CHUNK = 1 << 20
_NEWEST = 4096
"""Bytes at the end of a log whose middle was cut from which the reader continues."""
_BEATS = 3
"""Times `settle` without a sign of life after which a job may be dead."""
_AGAIN = "build again: finished steps are kept"
_SIGTERM = 143  # 128 + SIGTERM
_SIGKILL = 137  # 128 + SIGKILL


@frozen
class SubmittedJob:
    """A job that the scheduler knows or knew."""

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

    scheduler: Scheduler
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
    _stuck: float | None = None
    """Since when it cannot start."""

    def to_the_end(self) -> Ending:
        """Follow the log until the command has ended.

        Raises:
            MachineError: The scheduler does not answer or has lost the job, or the job cannot start.
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
                self._refuse_stuck(state)
                if self._is_dead(state):
                    return self._killed_unseen()
            time.sleep(_SLICE)
        return self._explained(ending)

    def stop(self, grace: float) -> None:
        """Ask the command to stop, and follow its log until it has ended or the time is over."""
        state = self.scheduler.state(self.submitted.number, self.submitted.name)
        if state is None or state.is_over or state.is_waiting:
            return
        self.scheduler.ask_to_stop(self.submitted.number, self.submitted.name)
        deadline = time.monotonic() + grace + _SELDOM
        while self._look() is None and time.monotonic() < deadline:
            time.sleep(_SLICE)

    def wait_until_gone(self) -> None:
        """Wait until the job's processes have ended."""
        deadline = time.monotonic() + min(self.patience, _LEAVES_WITHIN)
        while time.monotonic() < deadline:
            state = self.scheduler.state(self.submitted.number, self.submitted.name)
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
        """Ask for the job's state, and retry until the scheduler answers. None if the end is recorded meanwhile.

        Raises:
            SchedulerUnavailableError: It does not answer for longer than we wait, or refuses to.
        """
        deadline, warned, pause = time.monotonic() + self.patience, False, _OFTEN
        title = self.scheduler.title

        def gives_up() -> bool:
            self.abort_check()
            return self.submitted.folder.ending() is not None or time.monotonic() > deadline

        while True:
            try:
                return self.scheduler.state(self.submitted.number, self.submitted.name, gives_up)
            except SchedulerUnavailableError as error:
                if self.submitted.folder.ending() is not None:
                    return None
                if isinstance(error, ClusterAccessError):
                    raise
                if time.monotonic() > deadline:
                    message = f"{self.step}: {title} has not answered for {self.patience:.0f} s"
                    hint = "build again when it answers: the job is adopted"
                    raise type(error)(message, hint=hint) from error
            if not warned:
                self.observer(Warned(f"{title} does not answer; waiting up to {self.patience:.0f} s for it"))
                warned = True
            time.sleep(pause)
            pause = min(2 * pause, _SELDOM)

    def _is_dead(self, state: JobState) -> bool:
        """Tell whether a job that runs, as the scheduler says, has no process any more.

        A scheduler takes minutes or hours to see that a job was killed together with its supervisor.
        """
        beat, now = self.submitted.folder.last_beat(), time.monotonic()
        if beat is None or beat != self._beat or state.is_waiting:
            self._beat, self._beaten = beat, now
            return False
        return now - self._beaten > _BEATS * max(self.settle, 1.0) and self.submitted.folder.is_free()

    def _refuse_stuck(self, state: JobState) -> None:
        """Give a job up that cannot start.

        Raises:
            JobNotStartedError: It could not for longer than we wait.
        """
        now = time.monotonic()
        if not state.stuck:
            self._stuck = None
        elif self._stuck is None:
            self._stuck = now
        elif now - self._stuck > self.patience:
            self.scheduler.cancel(self.submitted.number, self.submitted.name)
            message = f"{self.step}: its job cannot start: {state.reason}"
            raise JobNotStartedError(message, hint="correct it in cluster.yaml or on the cluster, then build again")

    def _killed_unseen(self) -> Ending:
        if ending := self._look():  # recorded since
            return ending
        self.scheduler.cancel(self.submitted.number, self.submitted.name)
        return Ending(_SIGKILL, killed=True)

    def _report(self, state: JobState) -> None:
        """Report why the job waits, once for each reason."""
        before = self.submitted.before
        if state.is_waiting and state.reason == self._reason:  # it has had the time to start by itself
            ended = before.number if before and before.folder.ending() else None
            self.scheduler.unblock(self.submitted.number, state, ended)
        if not state.is_waiting or state.reason in (self._reason, "None"):
            return
        self._reason = state.reason
        self.observer(Waiting(self.step, f"job {self.submitted.number} is queued ({state.reason})"))

    def _settled(self, state: JobState | None) -> Ending:
        """Wait until the record of an ended job is visible here.

        Raises:
            MachineError: There is none, and the machine is at fault.
            StepTimeLimitError: There is none, because the scheduler ended the job at its time limit.
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
            message = f"{name} is gone: {self.scheduler.title} does not know it, and it left no record"
            raise NodeLostError(message, hint=_AGAIN)
        if state.cause == "time_limit" and self.submitted.folder.last_beat() is None:
            message = f"{name} was removed before its command started ({state.reason})"
            hint = "a deadline must leave more than `minutes` of waiting: change `options` or `minutes` in cluster.yaml"
            raise JobNotStartedError(message, hint=hint)
        if state.cause == "ended":
            if state.signal:
                return Ending(128 + state.signal, killed=True)
            output = self.scheduler.output_of(self.submitted.number, self.submitted.name, self.submitted.folder)
            lines = "".join(f"\n  {line}" for line in output.splitlines())
            message = f"{name} ended before its command started{lines}"
            hint = "its node needs this tool's Python and the store, at the paths that its request names"
            raise JobNotStartedError(message, hint=hint)
        return self._as_told(Ending(_SIGTERM, killed=True), state)

    def _as_told(self, ending: Ending, state: JobState) -> Ending:
        """Return the ending of a killed command with the scheduler's reason.

        Raises:
            NodeLostError: The node was lost.
        """
        match state.cause:
            case "out_of_memory":
                return replace(ending, exit_status=_SIGKILL, out_of_memory=True)
            case "time_limit":
                return replace(ending, time_limit=True)
            case "node_lost":
                message = f"{self.step}: job {self.submitted.number} was lost with its node ({state.reason})"
                raise NodeLostError(message, hint=_AGAIN)
            case "ended" | "cancelled":
                return ending

    def _explained(self, ending: Ending) -> Ending:
        """Ask why a command was killed: the job itself knows only the signal.

        A child of the command may have been killed for memory. Then the command fails with a status of its own.
        """
        if ending.exit_status == 0 or ending.time_limit or ending.code:
            return ending
        was_killed, deadline = ending.exit_status in (_SIGKILL, _SIGTERM), time.monotonic() + self.settle
        with suppress(SchedulerUnavailableError):
            while time.monotonic() < deadline:
                number, name = self.submitted.number, self.submitted.name
                state = self.scheduler.state(number, name, lambda: time.monotonic() > deadline)
                if state is None:
                    return ending
                if state.is_over:
                    return self._as_told(ending, state) if was_killed or state.cause == "out_of_memory" else ending
                time.sleep(_SLICE)
        return ending


@dataclass
class _Pause:
    """Decides when to ask the scheduler again: often at the beginning, seldom later."""

    _started: float = field(default_factory=time.monotonic)
    _asked: float = 0.0

    def is_over(self) -> bool:
        """Tell whether it is time to ask, and count it as asked."""
        now = time.monotonic()
        if now - self._asked < min(_SELDOM, max(_OFTEN, (now - self._started) / _ASKED_IN_A_TIME)):
            return False
        self._asked = now
        return True
