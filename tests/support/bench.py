"""A bench for executors: makes jobs of `tests/support/command.py`, runs them and keeps what they reported."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.events import Event, LogLine
from orchestrator.executors.docker_arguments import container_name
from orchestrator.executors.job import Argument, ContainerImage, Executor, Inside, Job, Mount, Outcome
from tests.support import command, orchestrate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.docker_daemon import Daemon

KEY = "c0ffee" * 10 + "0001"
_ROOT = Path(command.__file__).resolve().parents[2]


class Bench:
    """One executor with a way to run behaviours of `tests/support/command.py` on it."""

    def __init__(self, executor: Executor, folder: Path, image: ContainerImage | None = None) -> None:
        self.executor = executor
        self.folder = folder
        self.image = image
        self.events: list[Event] = []
        self.input = folder / "in put"
        self.input.mkdir()
        (self.input / "weights").write_text("weights")

    @classmethod
    def of_daemon(cls, daemon: Daemon, folder: Path, grace: int = 3) -> Bench:
        return cls(daemon.executor(grace=grace), folder, ContainerImage(daemon.base_image, daemon.architecture))

    def job(self, *argv: Argument, attempt: str = "attempt") -> Job:
        return Job(
            step="quantize",
            key=KEY,
            recipe="tiny",
            argv=("python3", Inside("/support", "command.py"), *argv),
            output=self.folder / attempt / "out",
            mounts=(
                Mount(Path(command.__file__).parent, "/support"),
                Mount(self.input, "/input"),
            ),
            image=self.image,
        )

    @property
    def container(self) -> str:
        """The name of the container of the bench's jobs."""
        return container_name(self.job())

    def run(self, job: Job) -> Outcome:
        """Run a job and forget it, as the runner does."""
        job.output.mkdir(parents=True, exist_ok=True)
        try:
            return self.executor.run(job, self.see)
        finally:
            self.executor.forget(job)

    def see(self, event: Event) -> None:
        self.events.append(event)

    @property
    def lines(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, LogLine)]

    @property
    def log(self) -> bytes:
        return (self.folder / "attempt" / "log.txt").read_bytes()


@contextmanager
def in_background(bench: Bench, job: Job) -> Iterator[list[Outcome]]:
    """Have a job running while the block runs; its outcome is in the list after the block."""
    outcomes: list[Outcome] = []
    worker = threading.Thread(target=lambda: outcomes.append(bench.run(job)))
    worker.start()
    try:
        yield outcomes
    finally:
        worker.join()


@contextmanager
def other_orchestrator(
    executor: str, job: Job, folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a job in a process of its own, which is killed with SIGKILL at the end of the block."""
    file = folder / "job.pickle"
    file.write_bytes(pickle.dumps(job))
    process = subprocess.Popen(
        (sys.executable, orchestrate.__file__, executor, file),
        env={**environment, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def await_line(process: subprocess.Popen[str], text: str) -> None:
    """Read what the other orchestrator prints up to a line with this text."""
    assert process.stdout is not None
    assert any(text in line for line in process.stdout), "the other orchestrator ended without it"


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait until something has come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
