"""Finds, creates, starts and removes the container of a job. Docker gives its name only once."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound

from orchestrator.errors import MachineError
from orchestrator.executors.docker_arguments import LABEL, container_name, create_arguments, describe
from orchestrator.executors.docker_client import DOCKER_ERRORS, explain, explained, user_of
from orchestrator.executors.docker_secrets import remove_secrets, secrets_of, write_secrets
from orchestrator.executors.interrupts import interrupts_held
from orchestrator.executors.job import Outcome
from orchestrator.executors.launcher import NOT_EXECUTABLE, NOT_FOUND
from orchestrator.store import owner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker.models.containers import Container

    from docker import DockerClient
    from orchestrator.executors.job import Job

_KILLED = frozenset({137, 143})  # 128 + SIGKILL, 128 + SIGTERM
REMOVED = "removed"
ENDED = frozenset({"exited", "dead", "stopped", REMOVED})  # Podman says stopped; removed is our own state
"""States of a container that runs no more."""


def get(client: DockerClient, name: str) -> Container | None:
    """Find a container by its name or identifier.

    Raises:
        MachineError: Docker does not say.
    """
    with explained(f"looking for container {name}"):
        try:
            return client.containers.get(name)
        except NotFound:
            return None


def find(client: DockerClient, job: Job) -> Container | None:
    """Find the container of the job's key.

    Raises:
        MachineError: Another container has its name.
    """
    container = get(client, container_name(job))
    if container is not None and container.labels.get(LABEL + "key") != job.key:
        message = f"step {job.step}: the container name {container.name} belongs to another program"
        raise MachineError(message, hint=f"docker rm -f {container.name}")
    return container


def is_usable(container: Container) -> bool:
    """Return whether it runs, ran or can start, and its output folder still exists."""
    return container.status not in ("removing", "dead") and Path(container.labels[LABEL + "output"]).is_dir()


def create(client: DockerClient, job: Job, limits: Mapping[str, int]) -> Container | None:
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


class LimitRefusedError(MachineError):
    """Docker may not raise a resource limit."""


class GoneError(MachineError):
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
            raise GoneError(message) from error
        return _start_created(container) if container.status == "created" else {}


@contextmanager
def _alone_at(output: Path) -> Iterator[None]:
    """Lock a container's output folder, so that only one orchestrator starts the container."""
    try:
        folder = os.open(output, os.O_RDONLY)
    except FileNotFoundError as error:
        message = f"the output folder {output} is gone"
        raise GoneError(message) from error
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
        remove(container)
        if "rlimit" in reason:
            message = f"starting container {container.name}: {reason}"
            raise LimitRefusedError(message) from error
        raise explain(error, f"starting container {container.name}") from error
    return {}


def _exit_status(reason: str) -> int | None:
    """Tell a missing command from a Docker that cannot start any."""
    if "docker-init" in reason:
        return None
    if "executable file not found" in reason:
        return NOT_FOUND
    return NOT_EXECUTABLE if "exec" in reason and "permission denied" in reason else None


def remove(container: Container) -> None:
    """Remove a container, running or not, and its secret files.

    Raises:
        MachineError: Docker does not remove it.
    """
    with explained(f"removing container {container.name}"), suppress(NotFound):
        try:
            container.remove(force=True)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:  # its removal is already under way
                raise
            container.wait(condition="removed")
    remove_secrets(secrets_of(container.attrs))


def outcome(state: Mapping[str, Any], output: Path, *, adopted: bool) -> Outcome:
    """Read from Docker's record how a container ended.

    The kernel may have killed only a child. Then the status is the command's own, but the record shows it.
    """
    status = int(state["ExitCode"])
    out_of_memory = bool(state.get("OOMKilled"))
    killed = status in _KILLED and not out_of_memory
    return Outcome(status, output, out_of_memory=out_of_memory, killed=killed, adopted=adopted)
