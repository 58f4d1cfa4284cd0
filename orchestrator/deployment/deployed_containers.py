"""Finds, describes and removes the containers of deployments, by their labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker.errors import NotFound

from orchestrator.deployment import images
from orchestrator.deployment.compose_file import SERVER
from orchestrator.deployment.container import FOLDER, RECIPE, SERVICE
from orchestrator.deployment.gateway_client import Gateway, Health
from orchestrator.executors.docker_client import explained
from orchestrator.values import frozen

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

_GRACE = 60
"""Seconds for a container to finish its requests before it is killed, if it names none itself."""


@frozen
class DeployedContainer:
    """One container of a deployment."""

    recipe: str
    folder: Path
    service: str
    container: str
    state: str
    """`starting`, `loading`, `ready`, `running`, or how it ended."""
    detail: str
    """Why it is not ready, in the server's own message."""
    restarts: int
    """How often Docker restarted it."""
    started: str
    """The time in Docker's format."""
    address: str
    """Its URL on this machine; empty: none."""
    image: str


def containers(client: DockerClient, recipe: str | None = None, folder: Path | None = None) -> list[Container]:
    """Find the containers of deployments in any state."""
    labels = [RECIPE if recipe is None else f"{RECIPE}={recipe}", *([f"{FOLDER}={folder}"] if folder else [])]
    with explained("listing containers"):
        found = client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
    return sorted(found, key=lambda container: (container.labels[RECIPE], container.labels[SERVICE] != SERVER))


def describe_container(container: Container) -> DeployedContainer:
    """Describe a container. A running server is queried."""
    state = container.attrs["State"]
    address = _address(container)
    status, detail = state["Status"], state.get("Error", "")
    if status == "running" and container.labels[SERVICE] == SERVER:
        plain = address and not _uses_tls(container)
        health = Gateway(f"http://{address}").health() if plain else docker_health(container)
        status = "ready" if health.ready else "loading" if health.live else "starting"
        detail = health.message
    elif status in {"exited", "dead", "restarting"}:
        status = f"{status} ({state['ExitCode']})"
        detail = "killed for lack of memory" if state.get("OOMKilled") else detail
    return DeployedContainer(
        recipe=container.labels[RECIPE],
        folder=Path(container.labels[FOLDER]),
        service=container.labels[SERVICE],
        container=container.name or "",
        state=status,
        detail=detail,
        restarts=container.attrs["RestartCount"],
        started=state.get("StartedAt", ""),
        address=address,
        image=container.attrs["Config"]["Image"],
    )


def _uses_tls(container: Container) -> bool:
    variables = dict(variable.partition("=")[::2] for variable in container.attrs["Config"]["Env"])
    return variables.get("NIM_SSL_MODE", "") not in {"", "disabled"}


def docker_health(container: Container) -> Health:
    """Return the result of Docker's own health checks."""
    status = (container.attrs["State"].get("Health") or {}).get("Status")
    return Health(live=container.status == "running", ready=status == "healthy", message="")


def _address(container: Container) -> str:
    bindings: dict[str, Any] = container.attrs["HostConfig"]["PortBindings"] or {}
    for places in bindings.values():
        for place in places or ():
            here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on
            address = here.get(place["HostIp"], place["HostIp"])
            return f"[{address}]:{place['HostPort']}" if ":" in address else f"{address}:{place['HostPort']}"
    return ""


def remove_deployment(client: DockerClient, recipe: str, folder: Path, *, volumes: bool) -> Iterator[str]:
    """Remove what a deployment of this bundle created, and nothing else.

    Args:
        client: Docker.
        recipe: The recipe.
        folder: The bundle, which may be gone.
        volumes: Remove also the volumes that servers keep between two starts.

    Yields:
        The removed objects.
    """
    labels = {RECIPE: recipe, FOLDER: str(folder)}
    filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
    for container in containers(client, recipe, folder):
        remove(container)
        yield f"container {container.name}"
    for image in images.built_here(client, labels):
        with explained(f"removing image {image.tags}"):
            for tag in image.tags:
                client.images.remove(tag)
                yield f"image {tag}"
    with explained("removing networks and volumes"):
        for network in client.networks.list(filters=filters):
            network.remove()
            yield f"network {network.name}"
        for volume in client.volumes.list(filters=filters) if volumes else ():
            volume.remove()
            yield f"volume {volume.name}"


def remove(container: Container, grace: int | None = None) -> None:
    """Stop a container and remove it.

    Args:
        container: It may be gone already.
        grace: Seconds to finish its requests; None: those that it was created with.
    """
    with explained(f"removing container {container.name}"), suppress(NotFound):
        own = container.attrs["Config"].get("StopTimeout")
        container.stop(timeout=grace if grace is not None else _GRACE if own is None else own)
        container.remove(force=True)
