"""Runs a job in a container that outlives the orchestrator.

A container is named after its job's key, and Docker gives a name only once. A second orchestrator, after a crash
or at the same time, finds the first one's container and adopts it. It is therefore removed only by `forget`, after
its result was taken, or if the user interrupts.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from docker.errors import APIError, NotFound

from orchestrator.errors import DockerUnavailableError, MachineError, StepError
from orchestrator.events import StepStarted, Warned
from orchestrator.executors import docker_images
from orchestrator.executors.channel import Channel
from orchestrator.executors.docker_arguments import (
    LABEL,
    LIMITS,
    LIMITS_UNRAISED,
    MANAGED,
    User,
    container_name,
    create_arguments,
    describe,
    run_line,
)
from orchestrator.executors.docker_client import DOCKER_ERRORS, connect, explain, explained, require_gpus, user_of
from orchestrator.executors.docker_logs import LogPosition, LogStream
from orchestrator.executors.docker_secrets import remove_secrets, secrets_of, write_secrets
from orchestrator.executors.interrupts import interrupts_held
from orchestrator.executors.job import ContainerImage, Outcome, never_abort
from orchestrator.executors.launcher import NOT_EXECUTABLE, NOT_FOUND
from orchestrator.store import owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from docker.models.containers import Container

    from docker import DockerClient
    from orchestrator.events import Observer
    from orchestrator.executors.docker_client import Connect
    from orchestrator.executors.job import AbortCheck, Job
    from orchestrator.store.space import Need

PATIENCE = 300.0
"""Seconds to wait for Docker if it stops while a container runs. An upgrade of Docker takes that long."""

_SLICE = 0.5
"""Seconds to wait for a log line before other checks."""

_SILENCE = 10.0
"""Seconds without a log line after which Docker is asked whether the container still runs."""

_SETTLE = 2
"""Seconds to wait for the container's end after that of its log."""

_CATCH_UP = 5.0
"""Seconds to spend on the log of an ended container, which may be very long."""

_NEWEST = 10_000
"""Messages at the end of a log that are always read, because the cause of a failure is among the last ones."""

_GIVEN_AWAY = 30.0
"""Seconds for which a container may have a name without being listed, because a busy Docker is slow."""

_KILLED = frozenset({137, 143})  # 128 + SIGKILL, 128 + SIGTERM
_REMOVED = "removed"
_ENDED = frozenset({"exited", "dead", "stopped", _REMOVED})  # Podman says stopped; removed is our own state

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class LeftContainer:
    """A container of an orchestrator that was not removed yet."""

    name: str
    status: str
    """Docker's state: `running`, `exited`, …"""
    key: str
    recipe: str
    step: str
    output: Path
    owned: bool
    """The orchestrator that created it still runs."""

    @property
    def running(self) -> bool:
        """Whether removing it would end a command."""
        return self.status not in _ENDED | {"created"}


class DockerExecutor:
    """Runs jobs in containers of one Docker.

    Args:
        connect: Connects to Docker. Called again after a connection is lost.
        patience: Seconds to wait for Docker if it stops while a container runs.
        grace: Seconds between asking an interrupted container to stop and killing it.
    """

    name = "docker"

    def __init__(self, connect: Connect = connect, patience: float = PATIENCE, grace: int = 1) -> None:
        self._connect = connect
        self._patience = patience
        self._grace = grace
        self._limits: Mapping[str, int] = LIMITS

    def check(self, job: Job) -> None:
        """Check whether this Docker can run the job.

        Raises:
            DockerUnavailableError: Docker does not answer.
            NoPermissionError: The user may not use its socket.
            WrongArchitectureError: Docker, or its copy of the image, is for another processor.
            GpuRuntimeMissingError: The job needs a GPU and Docker cannot provide one.
        """
        with closing(self._connect()) as client:
            docker_images.check_local(client, _image(job))
            if job.gpus:
                require_gpus(client)

    def needs(self, job: Job) -> tuple[Need, ...]:
        """Return the disk space for the job's image if Docker must pull it and keeps images on this machine."""
        with closing(self._connect()) as client:
            return docker_images.needs(client, _image(job))

    def run(self, job: Job, observer: Observer, abort_check: AbortCheck = never_abort) -> Outcome:
        """Run a job to its end, in the existing container of its key or in a new one.

        Lines go to the observer and to `log.txt` beside the output folder of the container. An adoption is reported
        at once, as a `StepStarted`. An adopted container's log is reported from its beginning.

        Raises:
            MachineError: Docker, not the command, is at fault. A running container continues and can be adopted.
            KeyboardInterrupt: The user interrupts. The container was asked to stop (after a second interrupt: killed),
                and is removed.
            StepError: Raised by `abort_check`. The container is stopped and removed in the same way.
        """
        with closing(self._connect()) as client:
            try:
                return self._run(client, job, observer, abort_check)
            except KeyboardInterrupt:
                _remove_own(client, job)
                raise

    def forget(self, job: Job) -> None:
        """Remove the job's ended container and its secret files. A running container stays.

        Raises:
            MachineError: Docker does not remove it.
        """
        with closing(self._connect()) as client:
            container = _find(client, job)
            if container is not None and not _left(container).running:
                _remove(container)

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Return a command line for the same job, with a placeholder for the file of each secret."""
        files = {name: Path("/path/to") / name for name in job.secrets}
        return run_line(describe(job, user=User.caller(), secrets=files))

    def containers(self) -> tuple[LeftContainer, ...]:
        """List the containers of all orchestrators on this Docker, in any state."""
        with closing(self._connect()) as client, explained("listing containers"):
            found = client.containers.list(all=True, filters={"label": f"{MANAGED}=1"}, ignore_removed=True)
            return tuple(_left(container) for container in found)

    def discard(self, name: str) -> None:
        """Remove one of those containers, running or not, with its secret files.

        Raises:
            MachineError: Docker does not remove it.
        """
        with closing(self._connect()) as client:
            container = _get(client, name)
            if container is not None:
                _remove(container)

    def _run(self, client: DockerClient, job: Job, observer: Observer, abort_check: AbortCheck) -> Outcome:
        container, adopted, state = self._begin(client, job, observer)
        output = Path(container.labels[LABEL + "output"])
        channel = Channel(output, observer, job.secrets.values())
        follower = _Follower(self._connect, container, channel, observer, self._patience, abort_check)
        try:
            channel.take(state.get("Error", "").encode())
            state = state or follower.to_the_end()
        except (KeyboardInterrupt, StepError):
            follower.stop(self._grace)
            raise
        finally:
            channel.close()
        if state.get("Status") in _ENDED:
            remove_secrets(secrets_of(container.attrs))
        return outcome(state, output, adopted=adopted)

    def _begin(self, client: DockerClient, job: Job, observer: Observer) -> tuple[Container, bool, Mapping[str, Any]]:
        """Return the job's running container, whether it was found, and a state if it ended at once."""
        while True:
            container, adopted = self._container(client, job, observer)
            try:
                return container, adopted, start_once(container)
            except _LimitRefusedError:
                if self._limits == LIMITS_UNRAISED and not adopted:
                    raise
                if self._limits != LIMITS_UNRAISED:
                    observer(Warned("Docker may not raise the limit of locked memory; the container gets Docker's own"))
                self._limits = LIMITS_UNRAISED
            except _GoneError:
                continue  # another orchestrator found that it cannot be started, and removed it
            except MachineError:
                if not adopted:  # an old container's mounts may be gone; it is removed, and a new one is created
                    raise

    def _container(self, client: DockerClient, job: Job, observer: Observer) -> tuple[Container, bool]:
        """Find the container of the job's key or create it. Return it and whether it was found."""
        deadline = time.monotonic() + _GIVEN_AWAY
        pause, ensured = 0.0, False
        while True:
            found = _find(client, job)
            if found is not None and _is_usable(found):
                observer(StepStarted(job.step, self.name, adopted=True))
                return found, True
            if found is not None:
                _remove(found)
            if not ensured:
                docker_images.ensure(client, _image(job), observer)
                ensured = True
            created = _create(client, job, self._limits)
            if created is not None:
                return created, False
            if time.monotonic() > deadline:
                break
            time.sleep(pause)  # the name is taken, but Docker may not list the container yet
            pause = min(1.0, pause + 0.2)
        message = f"step {job.step}: the container {container_name(job)} appears and disappears"
        raise MachineError(message, hint="look for another build of the same recipe: docker ps -a")


def _image(job: Job) -> ContainerImage:
    if job.image is None:
        message = f"step {job.step} names no image"
        raise ValueError(message)
    return job.image


def _get(client: DockerClient, name: str) -> Container | None:
    with explained(f"looking for container {name}"):
        try:
            return client.containers.get(name)
        except NotFound:
            return None


def _find(client: DockerClient, job: Job) -> Container | None:
    """Find the container of the job's key.

    Raises:
        MachineError: Another container has its name.
    """
    container = _get(client, container_name(job))
    if container is not None and container.labels.get(LABEL + "key") != job.key:
        message = f"step {job.step}: the container name {container.name} belongs to another program"
        raise MachineError(message, hint=f"docker rm -f {container.name}")
    return container


def _is_usable(container: Container) -> bool:
    """Whether it runs, ran or can start, and its output folder still exists."""
    return container.status not in ("removing", "dead") and Path(container.labels[LABEL + "output"]).is_dir()


def _create(client: DockerClient, job: Job, limits: Mapping[str, int]) -> Container | None:
    """Create the job's container; None if another orchestrator was faster.

    Raises:
        MachineError: Docker does not create it.
    """
    for mount in job.mounts:
        if not mount.source.exists():
            message = f"step {job.step}: {mount.source} is to be mounted at {mount.target} and does not exist"
            raise MachineError(message)
    job.output.mkdir(parents=True, exist_ok=True)
    user = user_of(client)
    files = write_secrets(job.secrets)
    try:
        described = describe(job, user=user, secrets=files, owner=owner.this_process(), limits=limits)
        with interrupts_held():
            return client.containers.create(**create_arguments(described))
    except BaseException as error:
        remove_secrets(files.values())
        if isinstance(error, APIError) and error.status_code == HTTPStatus.CONFLICT:
            return None
        if isinstance(error, DOCKER_ERRORS):
            raise explain(error, f"step {job.step}: creating its container") from error
        raise


class _LimitRefusedError(MachineError):
    """Docker may not raise a resource limit."""


class _GoneError(MachineError):
    """Another process removed the container."""


def start_once(container: Container) -> Mapping[str, Any]:
    """Start a container that was not started. Return a state if its command cannot be started.

    Only one orchestrator may start it, because it may have ended meanwhile and would run again.

    Raises:
        MachineError: Docker, not the command, is at fault. The container is removed.
    """
    if container.status != "created":
        return {}
    with _alone_at(Path(container.labels[LABEL + "output"])), explained(f"looking for container {container.name}"):
        try:
            container.reload()
        except NotFound as error:
            message = f"container {container.name} is gone"
            raise _GoneError(message) from error
        return _start_created(container) if container.status == "created" else {}


@contextmanager
def _alone_at(output: Path) -> Iterator[None]:
    """Lock a container's output folder, so that only one orchestrator starts the container."""
    try:
        folder = os.open(output, os.O_RDONLY)
    except FileNotFoundError as error:
        message = f"the output folder {output} is gone"
        raise _GoneError(message) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _start_created(container: Container) -> Mapping[str, Any]:
    try:
        with interrupts_held():
            container.start()
    except DOCKER_ERRORS as error:
        reason = str(getattr(error, "explanation", None) or error)
        status = _exit_status(reason)
        if status is not None:
            return {"Status": "exited", "ExitCode": status, "Error": reason}
        _remove(container)
        if "rlimit" in reason:
            message = f"starting container {container.name}: {reason}"
            raise _LimitRefusedError(message) from error
        raise explain(error, f"starting container {container.name}") from error
    return {}


def _exit_status(reason: str) -> int | None:
    """Tell a missing command from a Docker that cannot start any."""
    if "docker-init" in reason:
        return None
    if "executable file not found" in reason:
        return NOT_FOUND
    return NOT_EXECUTABLE if "exec" in reason and "permission denied" in reason else None


def _remove(container: Container) -> None:
    with explained(f"removing container {container.name}"), suppress(NotFound):
        try:
            container.remove(force=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:  # its removal is already under way
                raise
            container.wait(condition="removed")
    remove_secrets(secrets_of(container.attrs))


def _remove_own(client: DockerClient, job: Job) -> None:
    """Remove the job's container after an interruption if this process created it and has not removed it yet."""
    with suppress(MachineError):  # without Docker the container stays, and the next build adopts it
        container = _find(client, job)
        if container is not None and container.labels.get(LABEL + "owner") == owner.this_process():
            _remove(container)


def _left(container: Container) -> LeftContainer:
    labels = container.labels
    return LeftContainer(
        name=container.name or "",
        status=container.status,
        key=labels.get(LABEL + "key", ""),
        recipe=labels.get(LABEL + "recipe", ""),
        step=labels.get(LABEL + "step", ""),
        output=Path(labels.get(LABEL + "output", "")),
        owned=owner.is_running(labels.get(LABEL + "owner", "")),
    )


def outcome(state: Mapping[str, Any], output: Path, *, adopted: bool) -> Outcome:
    """Read from Docker's record how a container ended.

    The kernel may have killed only a child. Then the status is the command's own, but the record shows it.
    """
    status = int(state["ExitCode"])
    out_of_memory = bool(state.get("OOMKilled"))
    killed = status in _KILLED and not out_of_memory
    return Outcome(status, output, out_of_memory=out_of_memory, killed=killed, adopted=adopted)


@dataclass
class _Follower:
    """Reads a running container's log to the container's end, and reconnects to Docker."""

    connect: Connect
    container: Container
    channel: Channel
    observer: Observer
    patience: float
    abort_check: AbortCheck
    position: LogPosition = field(default_factory=LogPosition)
    """The position in the log."""

    @property
    def _id(self) -> str:
        return self.container.id or ""

    def to_the_end(self) -> Mapping[str, Any]:
        """Follow the log until the container has ended; returns its state.

        Raises:
            DockerUnavailableError: Docker does not answer for longer than we wait.
        """
        while True:
            self._follow()
            state = self._state(settle=_SETTLE)
            if state["Status"] in _ENDED:
                self._follow(newest=_NEWEST)  # lines from the time without Docker
                return state

    def stop(self, grace: int) -> None:
        """Ask the container to stop and remove it. After another interrupt, kill it."""
        try:
            with closing(self.connect()) as client:
                container = _get(client, self._id)
                if container is not None:
                    self._stop(container, grace)
        except MachineError as error:
            self.observer(Warned(f"container {self.container.name} was not stopped and may continue: {error}"))

    def _stop(self, container: Container, grace: int) -> None:
        try:
            self.abort_check = never_abort  # the command is already being stopped
            with explained(f"stopping container {self.container.name}"):
                container.stop(timeout=grace)
            self._follow()
        finally:
            _remove(container)

    def _follow(self, newest: int | None = None) -> None:
        """Forward the log until it ends, or until the container has ended and nothing or too much comes."""
        with LogStream(self.connect, self._id, self.position, newest) as stream:
            checked = time.monotonic()
            ended = False
            while (piece := stream.take(_SLICE)) is not None:
                self.abort_check()
                if piece:
                    self.channel.take(piece)
                if time.monotonic() - checked < (_CATCH_UP if ended else _SILENCE):
                    continue
                if ended:
                    return
                ended = self._state(settle=0)["Status"] in _ENDED
                checked = time.monotonic()
                if ended and not piece:
                    return

    def _state(self, settle: int) -> Mapping[str, Any]:
        """Ask for the container's state, and retry until Docker answers.

        Args:
            settle: Seconds to wait for the container's end before it counts as running.
        """

        def request(client: DockerClient) -> Mapping[str, Any]:
            if settle:
                with suppress(requests.RequestException):  # a timeout, under several names (docker-py issue 1966)
                    client.api.wait(self._id, timeout=settle)
            state: Mapping[str, Any] = client.api.inspect_container(self._id)["State"]
            return state

        try:
            return self._patiently(request)
        except NotFound:
            return {"Status": _REMOVED, "ExitCode": 137}  # docker rm -f

    def _patiently(self, request: Callable[[DockerClient], _Answer]) -> _Answer:
        deadline = time.monotonic() + self.patience
        warned = False
        while True:
            try:
                with closing(self.connect()) as client:
                    return request(client)
            except NotFound:
                raise
            except (DockerUnavailableError, *DOCKER_ERRORS) as error:
                if time.monotonic() > deadline:
                    message = f"Docker has not answered for {self.patience:.0f} s while {self.container.name} ran"
                    hint = "start it and build again: the running container is adopted"
                    raise DockerUnavailableError(message, hint=hint) from error
            self.abort_check()
            if not warned:
                self.observer(Warned(f"Docker does not answer; waiting up to {self.patience:.0f} s for it"))
                warned = True
            time.sleep(1)
