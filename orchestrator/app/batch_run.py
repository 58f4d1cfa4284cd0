"""Builds the recipes of a batch, each in a process of its own."""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.app.batch import Batch, Member
from orchestrator.app.detach import log_file
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import Ended, error_of, read_line
from orchestrator.app.settings import Settings
from orchestrator.errors import OrchestratorError, StepKilledError, machine_faults
from orchestrator.events import Event, StepDone, StepReused
from orchestrator.values import frozen

State = Literal["built", "failed", "refused", "interrupted", "not started"]

_HOUR = 3600.0


@frozen
class StepTime:
    """One step of a build."""

    name: str
    reused: bool
    seconds: float
    gpus: int


@dataclass
class Result:
    """How the build of one recipe ended."""

    member: Member
    state: State = "not started"
    error: OrchestratorError | None = None
    seconds: float = 0.0
    steps: list[StepTime] = field(default_factory=list)

    @property
    def gpu_hours(self) -> float:
        """The hours of its steps, times the GPUs of each."""
        return sum(step.seconds * step.gpus for step in self.steps if not step.reused) / _HOUR

    def take(self, event: Event) -> None:
        """Note the time of a step that has ended."""
        if isinstance(event, (StepDone, StepReused)):
            gpus = self.member.gpus.get(event.step, 0)
            self.steps.append(StepTime(event.step, isinstance(event, StepReused), event.seconds, gpus))


class Process(Protocol):
    """A build in another process, which writes its events to its standard output."""

    @property
    def stdout(self) -> Iterable[bytes] | None:
        """Its lines."""

    def wait(self) -> int:
        """Wait for its end, and return its exit status."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""


Start = Callable[[Member], Process]
Show = Callable[[Member, Event], None]


def start_builds(settings: Settings, command: Sequence[str]) -> Start:
    """Return what starts a build in a session of its own, so that a signal reaches it only from here.

    Args:
        settings: The settings with the store, which keeps what a build writes to standard error.
        command: The command without the recipe and `--events`.
    """

    def start(member: Member) -> Process:
        log = log_file(settings, member.recipe.name)
        with machine_faults("writing to the store"):
            log.parent.mkdir(parents=True, exist_ok=True)
            stream = log.open("wb")
        with stream:
            return subprocess.Popen(
                [*command, str(member.recipe.file or member.recipe.name), "--events"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )

    return start


@dataclass
class _Running:
    result: Result
    process: Process
    began: float
    reader: threading.Thread
    ended: Ended | None = None


@dataclass
class BatchRun:
    """Builds the recipes of a batch, several at once."""

    start: Start
    show: Show
    jobs: int
    keeps_going: bool
    """Start further builds after one has failed."""
    results: dict[RecipeName, Result] = field(default_factory=dict)
    _running: dict[RecipeName, _Running] = field(default_factory=dict)
    _interrupted: bool = False
    _lines: queue.Queue[tuple[RecipeName, bytes]] = field(default_factory=queue.Queue)

    def run(self, members: Sequence[Member]) -> tuple[Result, ...]:
        """Build them in this order, and return their results in the same order.

        After an interrupt or an error, every build that runs is interrupted, and it is raised when all have ended.
        """
        self.results = {member.recipe: Result(member) for member in members}
        waiting = list(members)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs and self._may_start:
                    self._begin(waiting.pop(0))
                if not self._running:
                    break
                self._take(*self._lines.get())
        finally:  # after an interrupt or an error, some run
            self._interrupt()
        return tuple(self.results.values())

    @property
    def _may_start(self) -> bool:
        return self.keeps_going or not any(result.state == "failed" for result in self.results.values())

    def _begin(self, member: Member) -> None:
        process = self.start(member)
        reader = threading.Thread(target=self._read, args=(member.recipe, process), daemon=True)
        self._running[member.recipe] = _Running(self.results[member.recipe], process, time.monotonic(), reader)
        reader.start()

    def _read(self, recipe: RecipeName, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe
        for line in process.stdout:
            self._lines.put((recipe, line))
        self._lines.put((recipe, b""))

    def _take(self, recipe: RecipeName, line: bytes) -> None:
        """Take a line of a build; an empty one is its end."""
        running = self._running[recipe]
        if not line:
            self._end(recipe, running)
            return
        match read_line(line.decode("utf-8", "replace")):
            case Ended() as ended:
                running.ended = ended
            case None:
                pass
            case event:
                running.result.take(event)
                self.show(running.result.member, event)

    def _end(self, recipe: RecipeName, running: _Running) -> None:
        status = running.process.wait()
        result, ended = running.result, running.ended
        result.seconds = time.monotonic() - running.began
        if status == 0:
            result.state = "built"
        elif ended and ended.code:
            result.state, result.error = "failed", error_of(ended)
        elif ended or self._interrupted:
            result.state = "interrupted"
        else:
            message = f"the build of {recipe.name} ended with exit status {status} and said nothing"
            result.state, result.error = "failed", StepKilledError(message, hint="build it alone to see why")
        del self._running[recipe]

    def _interrupt(self) -> None:
        self._interrupted = True
        for running in self._running.values():
            with suppress(ProcessLookupError):
                running.process.send_signal(signal.SIGINT)
        while self._running:
            self._take(*self._lines.get())


def document_of(results: Iterable[Result]) -> list[dict[str, object]]:
    """Convert results to JSON."""
    return [
        {
            "recipe": result.member.recipe.name,
            "state": result.state,
            "seconds": round(result.seconds, 3),
            "planned_seconds": _span(result.member),
            "gpu_hours": round(result.gpu_hours, 4),
            "steps": [vars(step) for step in result.steps],
            "error": result.error and {"code": result.error.code, "message": result.error.message},
        }
        for result in results
    ]


def _span(member: Member) -> list[float] | None:
    time_of = member.time if member.planned and not member.error else None
    return [time_of.least, time_of.most] if time_of else None


def refused_results(batch: Batch) -> Iterator[Result]:
    """Yield results of the recipes that cannot be built."""
    for member in (*batch.expected, *batch.refused):
        yield Result(member, "refused", member.error)
