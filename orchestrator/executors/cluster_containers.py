"""Runs jobs in containers as clusters do: by Apptainer, or by Slurm's srun with Pyxis and Enroot.

Both run a container as a child process without a daemon. So such a job is a process with a longer command line.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.errors import ImageUnavailableError, MachineError
from orchestrator.executors.docker_arguments import text_in_container
from orchestrator.executors.job import OUTPUT, AbortCheck, Job, Mount, Outcome, never_abort
from orchestrator.executors.process import ProcessExecutor
from orchestrator.values import frozen

if TYPE_CHECKING:
    from orchestrator.events import Observer
    from orchestrator.store.space import Need

_SEPARATORS = frozenset(":,")
"""Characters with a meaning in a list of mounts."""


def apptainer_line(job: Job, image: str) -> tuple[str, ...]:
    """Return Apptainer's command line. A job without network gets a network namespace of its own."""
    isolated = () if job.network else ("--net", "--network", "none")
    mounts = (word for mount in _mounts(job) for word in ("--bind", _in_list(mount, "ro" if mount.read_only else "rw")))
    variables = (word for pair in _variables(job) for word in ("--env", pair))
    gpus = ("--nv",) if job.gpus else ()
    return (
        *("apptainer", "exec", "--containall", "--no-home", "--pwd", OUTPUT, *isolated, *gpus),
        *(*mounts, *variables, f"docker://{image}", *_argv(job)),
    )


def pyxis_line(job: Job, image: str) -> tuple[str, ...]:
    """Return srun's command line with the options of Pyxis. Enroot does not isolate the network."""
    mounts = ",".join(_in_list(mount, "ro" if mount.read_only else "rw") for mount in _mounts(job))
    return (
        *("srun", "--ntasks=1", "--export=NONE", f"--container-image={_of_enroot(image)}"),
        *(f"--container-mounts={mounts}", f"--container-workdir={OUTPUT}", "--no-container-mount-home"),
        *("env", *_variables(job), *_argv(job)),
    )


@frozen
class Runtime:
    """A program that runs containers."""

    program: str
    line: Callable[[Job, str], tuple[str, ...]]
    """Returns the command line of a job in a container of an image."""


RUNTIMES: Mapping[str, Runtime] = {
    "apptainer": Runtime("apptainer", apptainer_line),
    "pyxis": Runtime("srun", pyxis_line),
}


class ClusterContainerExecutor:
    """Runs jobs in containers that are children of this process.

    Args:
        runtime: The program that runs the containers.
        environment: The source of the few inherited variables.
        grace: Seconds between asking an interrupted command to end and killing it.
    """

    name = "container"

    def __init__(self, runtime: Runtime, environment: Mapping[str, str] = os.environ, grace: float = 10.0) -> None:
        self._runtime = runtime
        self._environment = environment
        self._process = ProcessExecutor(environment, grace=grace)

    def check(self, job: Job) -> None:
        """Check that the program exists and can run the job's image.

        Raises:
            MachineError: It cannot.
        """
        program = self._runtime.program
        if shutil.which(program, path=self._environment.get("PATH")) is None:
            message = f"step {job.step}: the program {program} is not on this machine"
            raise MachineError(message, hint="set `containers` in cluster.yaml to what the nodes have")
        _image(job)

    def needs(self, _job: Job) -> tuple[Need, ...]:
        """Return nothing: both programs keep images in the user's own cache."""
        return ()

    def run(self, job: Job, observer: Observer, abort_check: AbortCheck = never_abort) -> Outcome:
        """Run a job to its end, as a process."""
        job.output.mkdir(parents=True, exist_ok=True)
        return self._process.run(self._as_process(job), observer, abort_check)

    def forget(self, job: Job) -> None:
        """Do nothing: an ended process leaves nothing behind."""

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Return a command line for the same job."""
        return self._runtime.line(job, _image(job))

    def _as_process(self, job: Job) -> Job:
        slurm = {name: value for name, value in self._environment.items() if name.startswith("SLURM_")}
        return replace(job, argv=self._runtime.line(job, _image(job)), image=None, environment=slurm)


def _image(job: Job) -> str:
    """Return the reference of a job's image.

    Raises:
        ImageUnavailableError: It would have to be built first.
    """
    if job.image is None:
        message = f"step {job.step} names no image"
        raise ValueError(message)
    if job.image.build is not None:
        message = f"step {job.step}: {job.image.reference} is built from a Dockerfile, which no node can do"
        hint = "build and push it on a machine with Docker, and name it with its registry in docker/images.yaml"
        raise ImageUnavailableError(message, hint=hint)
    return job.image.reference


def _mounts(job: Job) -> Iterator[Mount]:
    yield Mount(job.output, OUTPUT, read_only=False)
    yield from job.mounts


def _in_list(mount: Mount, mode: str) -> str:
    """Write a mount for a list.

    Raises:
        MachineError: Its path has a character that separates mounts.
    """
    source = str(mount.source)
    if _SEPARATORS & set(source):
        message = f"{source} cannot be mounted into a container: its path has a colon or a comma"
        raise MachineError(message, hint="put the store into another folder: --store FOLDER")
    return f"{source}:{mount.target}:{mode}"


def _variables(job: Job) -> Iterator[str]:
    yield "PYTHONUNBUFFERED=1"
    for name, value in sorted(job.environment.items()):
        yield f"{name}={text_in_container(value)}"


def _argv(job: Job) -> tuple[str, ...]:
    return tuple(text_in_container(argument) for argument in job.argv)


def _of_enroot(image: str) -> str:
    """Write an image's reference as Enroot reads it: `#` behind the registry."""
    registry, slash, rest = image.partition("/")
    has_registry = slash and ("." in registry or ":" in registry or registry == "localhost")
    return f"docker://{registry}#{rest}" if has_registry else f"docker://{image}"
