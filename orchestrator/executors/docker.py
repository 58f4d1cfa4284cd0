"""Runs a job in a container that outlives the orchestrator.

A container is named after its job's key, and Docker gives a name only once. A second orchestrator, after a crash
or at the same time, finds the first one's container and adopts it. It is therefore removed only by `forget`, after
its result was taken, or if the user interrupts.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import MachineError, StepError
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
    describe,
    run_line,
)
from orchestrator.executors.docker_client import connect, explained, require_gpus
from orchestrator.executors.docker_container import (
    ENDED,
    GoneError,
    LimitRefusedError,
    create,
    find,
    get,
    is_usable,
    outcome,
    remove,
    start_once,
)
from orchestrator.executors.docker_follower import Follower
from orchestrator.executors.docker_secrets import remove_secrets, secrets_of
from orchestrator.executors.job import ContainerImage, Outcome, never_abort
from orchestrator.store import owner
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker.models.containers import Container

    from docker import DockerClient
    from orchestrator.events import Observer
    from orchestrator.executors.docker_client import Connect
    from orchestrator.executors.job import AbortCheck, Job
    from orchestrator.store.space import Need

PATIENCE = 300.0
"""Seconds to wait for Docker if it stops while a container runs. An upgrade of Docker takes that long."""

_GIVEN_AWAY = 30.0
"""Seconds for which a container may have a name without being listed, because a busy Docker is slow."""


@frozen
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
        return self.status not in ENDED | {"created"}


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
            container = find(client, job)
            if container is not None and not _left(container).running:
                remove(container)

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
            container = get(client, name)
            if container is not None:
                remove(container)

    def _run(self, client: DockerClient, job: Job, observer: Observer, abort_check: AbortCheck) -> Outcome:
        container, adopted, state = self._begin(client, job, observer)
        output = Path(container.labels[LABEL + "output"])
        channel = Channel(output, observer, job.secrets.values())
        follower = Follower(self._connect, container, channel, observer, self._patience, abort_check)
        try:
            channel.take(state.get("Error", "").encode())
            state = state or follower.to_the_end()
        except (KeyboardInterrupt, StepError):
            follower.stop(self._grace)
            raise
        finally:
            channel.close()
        if state.get("Status") in ENDED:
            remove_secrets(secrets_of(container.attrs))
        return outcome(state, output, adopted=adopted)

    def _begin(self, client: DockerClient, job: Job, observer: Observer) -> tuple[Container, bool, Mapping[str, Any]]:
        """Return the job's running container, whether it was found, and a state if it ended at once."""
        while True:
            container, adopted = self._container(client, job, observer)
            try:
                return container, adopted, start_once(container)
            except LimitRefusedError:
                if self._limits == LIMITS_UNRAISED and not adopted:
                    raise
                if self._limits != LIMITS_UNRAISED:
                    observer(Warned("Docker may not raise the limit of locked memory; the container gets Docker's own"))
                self._limits = LIMITS_UNRAISED
            except GoneError:
                continue  # another orchestrator found that it cannot be started, and removed it
            except MachineError:
                if not adopted:  # an old container's mounts may be gone; it is removed, and a new one is created
                    raise

    def _container(self, client: DockerClient, job: Job, observer: Observer) -> tuple[Container, bool]:
        """Find the container of the job's key or create it. Return it and whether it was found."""
        deadline = time.monotonic() + _GIVEN_AWAY
        pause, ensured = 0.0, False
        while True:
            found = find(client, job)
            if found is not None and is_usable(found):
                observer(StepStarted(job.step, self.name, adopted=True))
                return found, True
            if found is not None:
                remove(found)
            if not ensured:
                docker_images.ensure(client, _image(job), observer)
                ensured = True
            created = create(client, job, self._limits)
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


def _remove_own(client: DockerClient, job: Job) -> None:
    """Remove the job's container after an interruption if this process created it and has not removed it yet."""
    with suppress(MachineError):  # without Docker the container stays, and the next build adopts it
        container = find(client, job)
        if container is not None and container.labels.get(LABEL + "owner") == owner.this_process():
            remove(container)


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
