"""Runs a job in a container that outlives the orchestrator.

A container is named after its job's key, and the engine gives a name only once: whoever comes second, after a crash
or at the same time, finds the container of the first and adopts it. It is therefore removed only by `forget`, after
its result was taken, or when the user interrupts.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from docker.errors import APIError, NotFound

from orchestrator import owner
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
from orchestrator.executors.docker_engine import ENGINE_ERRORS, connect, explain, explained, require_gpus, user_of
from orchestrator.executors.docker_logs import LogStream, Place
from orchestrator.executors.docker_secrets import remove_secrets, secrets_of, write_secrets
from orchestrator.executors.job import ContainerImage, Outcome, carry_on
from orchestrator.executors.launcher import NOT_EXECUTABLE, NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from docker.models.containers import Container

    from docker import DockerClient
    from orchestrator.events import Observer
    from orchestrator.executors.docker_engine import Connect
    from orchestrator.executors.job import Heed, Job
    from orchestrator.room import Need

PATIENCE = 300.0
"""Seconds to wait for an engine that has gone while a container runs: an upgrade of Docker takes that long."""

_SLICE = 0.5
"""Seconds to wait for a log line before looking up."""

_SILENCE = 10.0
"""Seconds without a log line after which the engine is asked whether the container still runs."""

_SETTLE = 2
"""Seconds to wait for the container's end after that of its log."""

_CATCH_UP = 5.0
"""Seconds that are spent on the log of a container that has ended: one that wrote without measure leaves a long one."""

_NEWEST = 10_000
"""Messages at the end of a log that are read in any case: why the command gives up is among its last ones."""

_GIVEN_AWAY = 30.0
"""Seconds for which a name may be taken by a container that the engine does not show: a busy engine is slow to."""

_KILLED = frozenset({137, 143})  # 128 + SIGKILL, 128 + SIGTERM
_REMOVED = "removed"
_ENDED = frozenset({"exited", "dead", "stopped", _REMOVED})  # Podman says stopped; removed is our own word

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class LeftContainer:
    """A container that some orchestrator created and nobody has removed yet."""

    name: str
    status: str
    """In the engine's words: `running`, `exited`, …"""
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
    """Runs jobs in containers of one engine.

    Args:
        connect: Makes a connection; called again whenever one is lost.
        patience: Seconds to wait for an engine that went away while a container runs.
        grace: Seconds between asking an interrupted container to stop and killing it.
    """

    name = "docker"

    def __init__(self, connect: Connect = connect, patience: float = PATIENCE, grace: int = 1) -> None:
        self._connect = connect
        self._patience = patience
        self._grace = grace
        self._limits: Mapping[str, int] = LIMITS

    def check(self, job: Job) -> None:
        """Find out whether this engine can run the job.

        Raises:
            DockerUnavailableError: No engine answers.
            NoPermissionError: Its socket belongs to others.
            WrongArchitectureError: The engine, or the image it already has, is for another processor.
            GpuRuntimeMissingError: The job needs a GPU and the engine has no way to hand one out.
        """
        with closing(self._connect()) as client:
            docker_images.check_local(client, _image(job))
            if job.gpus:
                require_gpus(client)

    def needs(self, job: Job) -> tuple[Need, ...]:
        """Count the room for the job's image where the engine has to pull it and keeps its images on this machine."""
        with closing(self._connect()) as client:
            return docker_images.needs(client, _image(job))

    def run(self, job: Job, observer: Observer, heed: Heed = carry_on) -> Outcome:
        """Run a job to its end, in the container that its key already has or in a new one.

        Lines go to the observer and to `log.txt` beside the output folder of the container. An adoption is reported
        at once, as a `StepStarted` that says so; an adopted container's log is reported from its beginning.

        Raises:
            MachineError: The engine, not the command, is at fault; a running container goes on and can be adopted.
            KeyboardInterrupt: The user interrupts; the container was asked to stop (by a second one: killed),
                and is removed.
            StepError: What `heed` objected to; the container is stopped and removed in the same way.
        """
        with closing(self._connect()) as client:
            container, adopted, state = self._begin(client, job, observer)
            output = Path(container.labels[LABEL + "output"])
            channel = Channel(output, observer, job.secrets.values())
            watch = _Watch(self._connect, container, channel, observer, patience=self._patience, heed=heed)
            try:
                channel.take(state.get("Error", "").encode())
                state = state or watch.to_the_end()
            except (KeyboardInterrupt, StepError):
                watch.stop(self._grace)
                raise
            finally:
                channel.close()
            if state.get("Status") in _ENDED:
                remove_secrets(secrets_of(container.attrs))
            return outcome(state, output, adopted=adopted)

    def forget(self, job: Job) -> None:
        """Remove the job's ended container and the secret files it was given; one that still runs stays.

        Raises:
            MachineError: The engine does not remove it.
        """
        with closing(self._connect()) as client:
            container = _find(client, job)
            if container is not None and not _left(container).running:
                _remove(container)

    def command_line(self, job: Job) -> tuple[str, ...]:
        """Say what a person would type to run the same job, with a placeholder for the file of each secret."""
        files = {name: Path("/path/to") / name for name in job.secrets}
        return run_line(describe(job, user=User.caller(), secrets=files))

    def containers(self) -> tuple[LeftContainer, ...]:
        """List the containers of all orchestrators on this engine, whatever became of them."""
        with closing(self._connect()) as client, explained("listing containers"):
            found = client.containers.list(all=True, filters={"label": f"{MANAGED}=1"}, ignore_removed=True)
            return tuple(_left(container) for container in found)

    def discard(self, name: str) -> None:
        """Remove one of those containers, running or not, with the secret files it was given.

        Raises:
            MachineError: The engine does not remove it.
        """
        with closing(self._connect()) as client:
            container = _get(client, name)
            if container is not None:
                _remove(container)

    def _begin(self, client: DockerClient, job: Job, observer: Observer) -> tuple[Container, bool, Mapping[str, Any]]:
        """Have the job's container running; returns it, whether it was found, and a state where it ended at once."""
        while True:
            container, adopted = self._container(client, job, observer)
            try:
                return container, adopted, start_once(container)
            except KeyboardInterrupt:
                _remove(container)
                raise
            except _LimitRefusedError:
                if self._limits == LIMITS_UNRAISED and not adopted:
                    raise
                if self._limits != LIMITS_UNRAISED:
                    observer(
                        Warned("the engine may not raise the limit of locked memory; the container gets the engine's")
                    )
                self._limits = LIMITS_UNRAISED
            except _GoneError:
                continue  # whoever else came to it found that it cannot be started, and removed it
            except MachineError:
                if not adopted:  # what an old container mounts may be gone; it is removed, a new one comes next
                    raise

    def _container(self, client: DockerClient, job: Job, observer: Observer) -> tuple[Container, bool]:
        """Find the container of the job's key or create it; returns it and whether it was found."""
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
            time.sleep(pause)  # the engine has given the name away, but may not show the container yet
            pause = min(1.0, pause + 0.2)
        message = f"step {job.step}: the container {container_name(job)} comes and goes"
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
        MachineError: Something else has its name.
    """
    container = _get(client, container_name(job))
    if container is not None and container.labels.get(LABEL + "key") != job.key:
        message = f"step {job.step}: the container name {container.name} is taken by something else"
        raise MachineError(message, hint=f"docker rm -f {container.name}")
    return container


def _is_usable(container: Container) -> bool:
    """Whether it runs or ran, or still can, and the folder that it writes to is still there."""
    return container.status not in ("removing", "dead") and Path(container.labels[LABEL + "output"]).is_dir()


def _create(client: DockerClient, job: Job, limits: Mapping[str, int]) -> Container | None:
    """Create the job's container; None where somebody else was faster.

    Raises:
        MachineError: The engine does not create it.
    """
    for mount in job.mounts:
        if not mount.source.exists():
            message = f"step {job.step}: {mount.source} is to be mounted at {mount.target} and does not exist"
            raise MachineError(message)
    job.output.mkdir(parents=True, exist_ok=True)
    user = user_of(client)
    files = write_secrets(job.secrets)
    try:
        described = describe(job, user=user, secrets=files, owner=owner.ourselves(), limits=limits)
        return client.containers.create(**create_arguments(described))
    except BaseException as error:
        remove_secrets(files.values())
        if isinstance(error, APIError) and error.status_code == HTTPStatus.CONFLICT:
            return None
        if isinstance(error, ENGINE_ERRORS):
            raise explain(error, f"step {job.step}: creating its container") from error
        raise


class _LimitRefusedError(MachineError):
    """The engine may not raise a resource limit."""


class _GoneError(MachineError):
    """The container was removed by somebody else."""


def start_once(container: Container) -> Mapping[str, Any]:
    """Start the container where nobody has; returns a state where its command cannot be started, else nothing.

    Of all who found it one starts it: it may have run to its end since it was found, and would run once more.

    Raises:
        MachineError: The engine, not the command, is at fault; the container is removed.
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
    """Hold a container's output folder; whoever else is to start that container waits."""
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
        container.start()
    except ENGINE_ERRORS as error:
        said = str(getattr(error, "explanation", None) or error)
        status = _exit_status(said)
        if status is not None:
            return {"Status": "exited", "ExitCode": status, "Error": said}
        _remove(container)
        if "rlimit" in said:
            message = f"starting container {container.name}: {said}"
            raise _LimitRefusedError(message) from error
        raise explain(error, f"starting container {container.name}") from error
    return {}


def _exit_status(said: str) -> int | None:
    """Tell a command that is not there from an engine that cannot start any."""
    if "docker-init" in said:
        return None
    if "executable file not found" in said:
        return NOT_FOUND
    return NOT_EXECUTABLE if "exec" in said and "permission denied" in said else None


def _remove(container: Container) -> None:
    with explained(f"removing container {container.name}"), suppress(NotFound):
        try:
            container.remove(force=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:  # its removal is already under way
                raise
            container.wait(condition="removed")
    remove_secrets(secrets_of(container.attrs))


def _left(container: Container) -> LeftContainer:
    labels = container.labels
    return LeftContainer(
        name=container.name or "",
        status=container.status,
        key=labels.get(LABEL + "key", ""),
        recipe=labels.get(LABEL + "recipe", ""),
        step=labels.get(LABEL + "step", ""),
        output=Path(labels.get(LABEL + "output", "")),
        owned=owner.lives(labels.get(LABEL + "owner", "")),
    )


def outcome(state: Mapping[str, Any], output: Path, *, adopted: bool) -> Outcome:
    """Read how a container ended from what the engine recorded.

    The kernel may have killed only a child: then the status is the command's own, and the record still says so.
    """
    status = int(state["ExitCode"])
    out_of_memory = bool(state.get("OOMKilled"))
    killed = status in _KILLED and not out_of_memory
    return Outcome(status, output, out_of_memory=out_of_memory, killed=killed, adopted=adopted)


class _Watch:
    """Reads a running container's log to the container's end, through losses of the engine."""

    def __init__(
        self,
        connect: Connect,
        container: Container,
        channel: Channel,
        observer: Observer,
        *,
        patience: float,
        heed: Heed,
    ) -> None:
        self._connect = connect
        self._id = container.id or ""
        self._name = container.name
        self._channel = channel
        self._observer = observer
        self._patience = patience
        self._heed = heed
        self._place = Place()
        """How far the log was passed on."""

    def to_the_end(self) -> Mapping[str, Any]:
        """Follow the log until the container has ended; returns its state.

        Raises:
            DockerUnavailableError: The engine stays away for longer than we wait.
        """
        while True:
            self._follow()
            state = self._state(settle=_SETTLE)
            if state["Status"] in _ENDED:
                self._follow(newest=_NEWEST)  # what was written while the engine was away
                return state

    def stop(self, grace: int) -> None:
        """Ask the container to stop and remove it; interrupted again, kill it."""
        try:
            with closing(self._connect()) as client:
                container = _get(client, self._id)
                if container is not None:
                    self._stop(container, grace)
        except MachineError as error:
            self._observer(Warned(f"container {self._name} was not stopped and may go on: {error}"))

    def _stop(self, container: Container, grace: int) -> None:
        try:
            self._heed = carry_on  # what it objected to is being ended
            with explained(f"stopping container {self._name}"):
                container.stop(timeout=grace)
            self._follow()
        finally:
            _remove(container)

    def _follow(self, newest: int | None = None) -> None:
        """Pass the log on until it ends, or the container has ended and nothing comes, or too much."""
        with LogStream(self._connect, self._id, self._place, newest) as stream:
            asked = time.monotonic()
            ended = False
            while (piece := stream.take(_SLICE)) is not None:
                self._heed()
                if piece:
                    self._channel.take(piece)
                if time.monotonic() - asked < (_CATCH_UP if ended else _SILENCE):
                    continue
                if ended:
                    return
                ended = self._state(settle=0)["Status"] in _ENDED
                asked = time.monotonic()
                if ended and not piece:
                    return

    def _state(self, settle: int) -> Mapping[str, Any]:
        """Ask for the container's state, and again until the engine answers.

        Args:
            settle: Seconds that the container has to end before it counts as running.
        """

        def ask(client: DockerClient) -> Mapping[str, Any]:
            if settle:
                with suppress(requests.RequestException):  # a timeout, under several names (docker-py issue 1966)
                    client.api.wait(self._id, timeout=settle)
            state: Mapping[str, Any] = client.api.inspect_container(self._id)["State"]
            return state

        try:
            return self._patiently(ask)
        except NotFound:
            return {"Status": _REMOVED, "ExitCode": 137}  # docker rm -f

    def _patiently(self, ask: Callable[[DockerClient], _Answer]) -> _Answer:
        deadline = time.monotonic() + self._patience
        warned = False
        while True:
            try:
                with closing(self._connect()) as client:
                    return ask(client)
            except NotFound:
                raise
            except (DockerUnavailableError, *ENGINE_ERRORS) as error:
                if time.monotonic() > deadline:
                    message = f"the engine has not answered for {self._patience:.0f} s while {self._name} ran"
                    hint = "bring it back and build again: the container is found and adopted, nothing is lost"
                    raise DockerUnavailableError(message, hint=hint) from error
            self._heed()
            if not warned:
                self._observer(Warned(f"the engine is gone; waiting up to {self._patience:.0f} s for its return"))
                warned = True
            time.sleep(1)
