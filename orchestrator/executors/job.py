"""One command, fully decided: what an executor gets, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.events import Observer
from orchestrator.room import Need

OUTPUT = "/out"
"""Where every command finds the one folder that it may write."""


@dataclass(frozen=True)
class Inside:
    """An argument that names a place in one of the job's mounts."""

    target: str
    """The mount's target, e.g. `/checkpoint`."""
    path: str = ""
    """Below it."""


Argument = str | Inside


@dataclass(frozen=True)
class Mount:
    """A folder or file of this machine that the command sees."""

    source: Path
    target: str
    """Where a container sees it; outside a container `source` is used."""
    read_only: bool = True


@dataclass(frozen=True)
class ImageBuild:
    """How to build an image that is not pulled."""

    dockerfile: Path
    context: Path
    base: str
    """The reference that `ARG BASE` gets."""
    arguments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ContainerImage:
    """Which image a container starts from."""

    reference: str
    """With a digest where the lock has one."""
    architecture: str
    """`amd64` or `arm64`: what the target is."""
    build: ImageBuild | None = None
    pulled: int | None = None
    """Bytes that a pull of it, or of what it is built from, brings; None where nobody knows."""


@dataclass(frozen=True)
class Job:
    """One command with everything it may touch."""

    step: str
    key: str
    """64 hexadecimal digits: two jobs of one key do the same."""
    recipe: str
    argv: tuple[Argument, ...]
    output: Path
    """The attempt's folder of this machine, seen as `/out`, the working directory."""
    mounts: tuple[Mount, ...] = ()
    image: ContainerImage | None = None
    environment: Mapping[str, str | Inside] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret values by the name of the variable that carries them; a container gets them as files."""
    network: bool = False
    gpus: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    exit_status: int
    output: Path
    """The folder that was written: the job's own, or that of the container that was adopted."""
    out_of_memory: bool = False
    """The kernel killed it, or a child of it, for memory."""
    killed: bool = False
    """Somebody else ended it by a signal."""
    adopted: bool = False


Heed = Callable[[], None]
"""Called about every second while a command runs; what it raises stops the command and is raised again."""


def carry_on() -> None:
    """Have nothing against it: the default of `Heed`."""


class Executor(Protocol):
    """Runs jobs, one after another."""

    name: str

    def check(self, job: Job) -> None:
        """Find out before anything is spent whether this job can run here.

        Raises:
            MachineError: With what is missing and the command that mends it.
        """

    def needs(self, job: Job) -> tuple[Need, ...]:
        """Say what a job writes besides its output, as far as that is known: its image, where it is not there yet."""

    def run(self, job: Job, observer: Observer, heed: Heed = carry_on) -> Outcome:
        """Run a job to its end and report its lines as events; all of them also go to `log.txt` beside the output.

        Adopts what a killed orchestrator left running under the job's key, and reports that with a `StepStarted`.
        KeyboardInterrupt stops the command and is raised again once it has stopped; a second one kills it.
        An error that `heed` raises stops it as well.

        Raises:
            MachineError: Where the machine, not the command, is at fault.
        """

    def forget(self, job: Job) -> None:
        """Remove what is left of a job whose outcome was taken: published, or given up.

        Until then an ended container stays, so that an orchestrator killed before it published finds it again.
        Does nothing where nothing is left, and nothing to a container that still runs.

        Raises:
            MachineError: Where the machine does not let go of it.
        """

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Say what a person would type to run the same job."""
