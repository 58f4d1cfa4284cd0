"""Finds what is deployed on this machine, for the commands that follow builds and servers."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from orchestrator.deployment.compose_file import SERVER
from orchestrator.deployment.container import SERVICE
from orchestrator.deployment.made import Made, containers, look_at
from orchestrator.deployment.record import remembered
from orchestrator.errors import DockerUnavailableError, NotDeployedError
from orchestrator.executors.docker_client import connect, explained
from orchestrator.executors.docker_logs import LogStream

_SLICE = 0.5
"""Seconds between two checks for an interrupt."""


def deployed(store: Path, recipe: str | None = None) -> list[Made]:
    """Return what is deployed; nothing, with a note, if Docker does not answer.

    Args:
        store: The root of the store that remembers deployments.
        recipe: One recipe; all, if none is named.
    """
    known = remembered(store)
    if not known or (recipe and recipe not in known):
        return []
    try:
        with closing(connect()) as client:
            return [look_at(container) for container in containers(client, recipe)]
    except DockerUnavailableError as error:
        click.echo(f"nothing is known of servers: {error}", err=True)
        return []


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


def copy_log(container: str, *, follow: bool) -> None:
    """Write a container's log to standard output, and follow it."""
    if not follow:
        with closing(connect()) as client, explained("reading the log"):
            _write(client.containers.get(container).logs())
        return
    with LogStream(connect, container) as stream:
        while (piece := stream.take(_SLICE)) is not None:
            _write(piece)


def _write(piece: bytes) -> None:
    sys.stdout.write(piece.decode("utf-8", errors="replace"))
    sys.stdout.flush()
