"""Defines a job, one complete command for an executor, and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.store.space import Need
from orchestrator.values import frozen

if TYPE_CHECKING:
    from orchestrator.events import Observer

OUTPUT = "/out"
"""The only folder in which a command may write."""


@frozen
class Inside:
    """An argument that is a path in one of the job's mounts."""

    target: str
    """The mount's target, e.g. `/checkpoint`."""
    path: str = ""
    """The path below it."""


Argument = str | Inside


@frozen
class Mount:
    """A folder or file of this machine that the command can read."""

    source: Path
    target: str
    """Its path in a container. Outside a container, `source` is used."""
    read_only: bool = True


@frozen
class ImageBuild:
    """How to build an image that is not pulled."""

    dockerfile: Path
    context: Path
    base: str
    """The value of `ARG BASE`."""
    arguments: Mapping[str, str] = field(default_factory=dict)


@frozen
class ContainerImage:
    """A container's image."""

    reference: str
    """With a digest if the lock has one."""
    architecture: str
    """The target's processor: `amd64` or `arm64`."""
    build: ImageBuild | None = None
    pulled: int | None = None
    """Bytes to pull for it or its base image; None if not known."""
    clears_entrypoint: bool = False
    """Its own entry point is a server, which must not run before another command."""


@frozen
class Job:
    """One command with everything that it may access."""

    step: str
    key: str
    """64 hexadecimal digits. Two jobs with one key do the same."""
    recipe: str
    argv: tuple[Argument, ...]
    output: Path
    """The attempt's folder on this machine, mounted as `/out`, the working directory."""
    mounts: tuple[Mount, ...] = ()
    image: ContainerImage | None = None
    environment: Mapping[str, str | Inside] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret values by the name of their variable. A container gets them as files."""
    network: bool = False
    gpus: int = 0


@frozen
class Outcome:
    """How a command ended."""

    exit_status: int
    output: Path
    """The output folder: the job's own, or that of an adopted container."""
    out_of_memory: bool = False
    """The kernel killed it, or a child of it, for lack of memory."""
    killed: bool = False
    """Another process ended it by a signal."""
    adopted: bool = False


AbortCheck = Callable[[], None]
"""An abort check, called about every second while a command runs. If it raises, the command is stopped."""


def never_abort() -> None:
    """No-op abort check."""


class Executor(Protocol):
    """Runs jobs, one after another."""

    name: str

    def check(self, job: Job) -> None:
        """Check whether this job can run here, before any cost.

        Raises:
            MachineError: Names what is missing and the command that fixes it.
        """

    def needs(self, job: Job) -> tuple[Need, ...]:
        """Return what a job writes besides its output, as far as known: its image, if it is missing."""

    def run(self, job: Job, observer: Observer, abort_check: AbortCheck = never_abort) -> Outcome:
        """Run a job to its end and report its lines as events. All lines also go to `log.txt` beside the output.

        It adopts a running container of the job's key, left by a killed orchestrator, and reports a `StepStarted`.
        KeyboardInterrupt stops the command and is raised again when it has stopped. A second one kills it.
        An error from `abort_check` stops it as well.

        Raises:
            MachineError: The machine, not the command, is at fault.
        """

    def forget(self, job: Job) -> None:
        """Remove what a job left after its outcome was published or given up.

        Until then an ended container stays, so that an orchestrator that was killed before publishing finds it again.
        It does nothing if nothing is left, or if the container still runs.

        Raises:
            MachineError: It cannot be removed.
        """

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Return a command line for the same job."""
