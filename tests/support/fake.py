"""An executor that runs Python functions instead of commands, and fails where it is told to.

    fake = FakeExecutor({"quantize": leave_checkpoint})
    fake.fail("verify", status=3)

A function gets a `FakeRun`, writes its outputs into `run.output` and its lines with `run.write`, and returns the exit
status (None: 0). A step without a function leaves nothing and ends with 0. The contract tests run it through the
same cases as the real executors.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import MachineError
from orchestrator.events import StepStarted
from orchestrator.executors.channel import Channel
from orchestrator.executors.job import OUTPUT, AbortCheck, Argument, Job, Outcome, never_abort

if TYPE_CHECKING:
    from orchestrator.events import Observer
    from orchestrator.store.space import Need

SIGKILL = 9


@dataclass(frozen=True)
class FakeRun:
    """What a function sees of the job that it stands in for."""

    job: Job
    write: Callable[[bytes], None]
    """Writes to what would be standard output."""

    @property
    def output(self) -> Path:
        return self.job.output

    @property
    def argv(self) -> tuple[str, ...]:
        return tuple(self.text(argument) for argument in self.job.argv)

    @property
    def environment(self) -> dict[str, str]:
        return {**{name: self.text(value) for name, value in self.job.environment.items()}, **self.job.secrets}

    def text(self, argument: Argument) -> str:
        """Spell an argument with the paths of this machine."""
        return argument if isinstance(argument, str) else str(self.place(argument.target) / argument.path)

    def place(self, target: str) -> Path:
        """Find what is mounted at a target."""
        return ({mount.target: mount.source for mount in self.job.mounts} | {OUTPUT: self.job.output})[target]


Command = Callable[[FakeRun], int | None]


@dataclass(frozen=True)
class _Ending:
    """How a step ends instead of as its function says."""

    status: int = 0
    out_of_memory: bool = False
    killed: bool = False
    error: BaseException | None = None
    spoil: Callable[[Path], None] | None = None
    """Done to the output folder after the function."""


@dataclass
class FakeExecutor:
    """Runs functions by the name of the step."""

    commands: Mapping[str, Command] = field(default_factory=dict)
    name: str = "fake"
    jobs: list[Job] = field(default_factory=list)
    """The jobs that ran, in order."""
    images: tuple[Need, ...] = ()
    """What every job needs besides its output."""
    forgotten: list[Job] = field(default_factory=list)
    _endings: dict[str, _Ending] = field(default_factory=dict)
    _refusals: dict[str, MachineError] = field(default_factory=dict)
    _adopted: dict[str, Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def steps(self) -> list[str]:
        """The names of the steps that ran, in order."""
        return [job.step for job in self.jobs]

    def fail(self, step: str, status: int = 1) -> None:
        """Let a step's function run and then end with a status."""
        self._endings[step] = _Ending(status=status)

    def run_out_of_memory(self, step: str) -> None:
        """Let the kernel kill a step for memory."""
        self._endings[step] = _Ending(status=137, out_of_memory=True)

    def kill(self, step: str) -> None:
        """Let somebody end a step from outside."""
        self._endings[step] = _Ending(status=137, killed=True)

    def interrupt(self, step: str) -> None:
        """Let the user press Ctrl-C while a step runs."""
        self._endings[step] = _Ending(error=KeyboardInterrupt())

    def lose_machine(self, step: str, error: MachineError) -> None:
        """Let the machine, not the command, fail while a step runs."""
        self._endings[step] = _Ending(error=error)

    def leave_nothing(self, step: str) -> None:
        """Let a step succeed without any output."""
        self._endings[step] = _Ending(spoil=_remove_all)

    def leave_empty_files(self, step: str) -> None:
        """Let a step succeed with outputs of 0 bytes."""
        self._endings[step] = _Ending(spoil=_empty_all)

    def refuse(self, step: str, error: MachineError) -> None:
        """Let `check` refuse a step."""
        self._refusals[step] = error

    def adopt(self, step: str, output: Path) -> None:
        """Let a step be found running, by an orchestrator that is gone, with this output folder."""
        self._adopted[step] = output

    def mend(self, step: str) -> None:
        """Let a step do again what its function says."""
        for endings in (self._endings, self._refusals, self._adopted):
            endings.pop(step, None)

    def check(self, job: Job) -> None:
        if job.step in self._refusals:
            raise self._refusals[job.step]

    def needs(self, _job: Job) -> tuple[Need, ...]:
        """Need what a test says."""
        return self.images

    def run(self, job: Job, observer: Observer, abort_check: AbortCheck = never_abort) -> Outcome:
        abort_check()
        with self._lock:
            self.jobs.append(job)
        adopted = job.step in self._adopted
        output = self._adopted.get(job.step, job.output)
        if adopted:
            observer(StepStarted(job.step, self.name, adopted=True))
        output.mkdir(parents=True, exist_ok=True)
        ending = self._endings.get(job.step)
        channel = Channel(output, observer, job.secrets.values())
        try:
            command = self.commands.get(job.step)
            status = 0 if command is None or adopted else command(FakeRun(job, channel.take)) or 0
        finally:
            channel.close()
        if ending is None:
            return Outcome(status, output, killed=status < 0, adopted=adopted)
        if ending.spoil:
            ending.spoil(output)
        if ending.error:
            raise ending.error
        return Outcome(ending.status, output, out_of_memory=ending.out_of_memory, killed=ending.killed, adopted=adopted)

    def forget(self, job: Job) -> None:
        self.forgotten.append(job)

    def command_line(self, job: Job) -> tuple[str, ...]:
        program, *rest = FakeRun(job, lambda _: None).argv
        return (sys.executable if program == "python3" else program, *rest)


def _remove_all(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _empty_all(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
