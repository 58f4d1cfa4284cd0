"""Finds what is deployed on this machine, and reads the logs of servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from orchestrator.deployment.compose_file import SERVER
from orchestrator.deployment.container import SERVICE
from orchestrator.deployment.deployed_containers import DeployedContainer, containers, describe_container
from orchestrator.deployment.record import remembered
from orchestrator.errors import DockerUnavailableError, NotDeployedError
from orchestrator.executors.docker_client import connect, explained
from orchestrator.executors.docker_logs import LogStream
from orchestrator.values import frozen

_SLICE = 0.5
"""Seconds between two checks for an interrupt."""


@frozen
class DeployedContainers:
    """The containers of deployments on this machine."""

    containers: tuple[DeployedContainer, ...] = ()
    unknown: str = ""
    """Why Docker could not list them; empty if it did."""


def deployed_containers(store: Path, recipe: str | None = None) -> DeployedContainers:
    """Ask Docker for the containers of deployments.

    Args:
        store: The root of the store that remembers deployments.
        recipe: One recipe; all, if none is named.
    """
    known = remembered(store)
    if not known or (recipe and recipe not in known):
        return DeployedContainers()
    try:
        with closing(connect()) as client:
            return DeployedContainers(tuple(describe_container(container) for container in containers(client, recipe)))
    except DockerUnavailableError as error:
        return DeployedContainers(unknown=str(error))


def container_of(store: Path, recipe: str, service: str | None) -> str | None:
    """Find the container of a deployed service; of the server, if none is named.

    Raises:
        NotDeployedError: `server` is requested, and does not run.
        DockerUnavailableError: `server` is requested, and Docker does not answer.
    """
    if recipe in remembered(store):
        try:
            with closing(connect()) as client:
                for container in containers(client, recipe):
                    if container.labels[SERVICE] == (service or SERVER):
                        return container.id
        except DockerUnavailableError:
            if service == SERVER:
                raise
    if service == SERVER:
        message = f"{recipe} is not deployed here"
        raise NotDeployedError(message, hint=f"orchestrator deploy {recipe}")
    return None


def server_log(container: str, *, follow: bool) -> Iterator[bytes]:
    """Yield a container's log in pieces. With `follow`, continue until the container ends.

    Raises:
        DockerUnavailableError: Docker does not answer.
    """
    if not follow:
        with closing(connect()) as client, explained("reading the log"):
            yield client.containers.get(container).logs()
        return
    with LogStream(connect, container) as stream:
        while (piece := stream.take(_SLICE)) is not None:
            yield piece
