"""Stops the containers of deployed servers for a while, and starts the same ones again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from docker.errors import NotFound

from orchestrator.deployment.compose_file import SERVER
from orchestrator.deployment.container import SERVICE
from orchestrator.deployment.deployed_containers import containers
from orchestrator.executors.docker_client import explained

if TYPE_CHECKING:
    from docker import DockerClient

_RUNNING = ("running", "restarting", "paused")


def running_servers(client: DockerClient) -> list[str]:
    """Name the containers of deployed servers that run on this machine."""
    found = [one for one in containers(client) if one.labels[SERVICE] == SERVER and one.status in _RUNNING]
    return [container.name or "" for container in found]


def stop_servers(client: DockerClient, names: Sequence[str]) -> None:
    """Stop containers; they stay as they are otherwise. Docker restarts none that was stopped."""
    for name in names:
        with explained(f"stopping container {name}"), suppress(NotFound):
            container = client.containers.get(name)
            container.stop(timeout=container.attrs["Config"].get("StopTimeout") or 60)


def start_again(client: DockerClient, names: Sequence[str]) -> None:
    """Start containers again. One that somebody removed meanwhile stays away."""
    for name in names:
        with explained(f"starting container {name}"), suppress(NotFound):
            client.containers.get(name).start()
