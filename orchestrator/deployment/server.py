"""Finds a deployment's server and waits until it answers."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from docker.errors import APIError

from orchestrator.bundle.targets.dockerfile import health_probe
from orchestrator.deployment.compose_file import SERVER, ComposeFile, Service, published, seconds
from orchestrator.deployment.container import RECIPE
from orchestrator.deployment.deployed_containers import docker_health
from orchestrator.deployment.gateway_client import Gateway
from orchestrator.deployment.observer import Observer, Phase
from orchestrator.errors import PortUnreachableError, ServerEndedError, ServerNotReadyError
from orchestrator.executors.docker_client import explained

if TYPE_CHECKING:
    from docker.models.containers import Container

_LAST_LINES = 20
_POLL = 0.5
_PATIENCE = 10.0
"""Seconds until a port without an answer is compared with what the server says in its container. A gateway listens
within a few, long before its model is loaded."""
_WHY_UNREACHABLE = (
    "see which port Docker publishes: docker port {name}; look at the firewall; "
    "with DOCKER_HOST, the port is on that machine"
)
_ENDED = frozenset({"exited", "dead", "restarting"})


def wait_until_ready(container: Container, gateway: Gateway, limit: float, observer: Observer) -> float:
    """Wait until the server answers.

    Args:
        container: The server's.
        gateway: Its address.
        limit: Seconds from its start.
        observer: Gets the progress.

    Returns:
        The waited seconds.

    Raises:
        ServerEndedError: It ended. It is stopped, so that it does not restart forever, and kept for its log.
        ServerNotReadyError: It took too long. It continues to start.
        PortUnreachableError: It answers in its container, but not here.
    """
    began = probed = time.monotonic()
    with explained(f"watching container {container.name}"):
        container.reload()
        restarts = container.attrs["RestartCount"]
        while True:
            health = docker_health(container) if gateway.mutual else gateway.health()
            waited = time.monotonic() - began
            if health.ready:
                return waited
            container.reload()
            if container.status in _ENDED or container.attrs["RestartCount"] > restarts:
                raise _ended(container)
            if waited > limit:
                raise _too_late(container, limit, health.message)
            if not health.reached and time.monotonic() - probed > _PATIENCE:
                _require_silence_inside(container, gateway)
                probed = time.monotonic()
            text = "loading the model" if health.live else "starting"
            if not health.reached and waited > _PATIENCE:
                text = f"starting; {gateway.url} does not answer yet"
            observer(Phase("server", text, waited, limit, _last_line(container)))
            time.sleep(_POLL)


def _require_silence_inside(container: Container, gateway: Gateway) -> None:
    """Refuse to wait for a port whose server answers in its container already."""
    status, _ = container.exec_run(list(health_probe("live")))
    if status == 0:
        message = f"the server answers in its container {container.name}, but {gateway.url} cannot be reached from here"
        raise PortUnreachableError(message, hint=_WHY_UNREACHABLE.format(name=container.name))


def _ended(container: Container) -> ServerEndedError:
    state = container.attrs["State"]
    with suppress(APIError):
        container.stop(timeout=1)
    why = ", killed for lack of memory" if state.get("OOMKilled") else ""
    message = f"the server ended with status {state['ExitCode']}{why} before it was ready; its last lines:\n"
    return ServerEndedError(message + _last_lines(container), hint=f"all of them: docker logs {container.name}")


def _too_late(container: Container, limit: float, health: str) -> ServerNotReadyError:
    reason = f" ({health})" if health else ""
    message = f"the server is not ready after {limit:.0f} s{reason}; it is still starting. Its last lines:\n"
    return ServerNotReadyError(
        message + _last_lines(container), hint=f"continue to wait: orchestrator deploy {container.labels[RECIPE]}"
    )


def _last_lines(container: Container) -> str:
    return _tail(container, _LAST_LINES) or "(it wrote nothing)"


def _last_line(container: Container) -> str:
    return "".join(_tail(container, 1).splitlines()[-1:])


def _tail(container: Container, count: int) -> str:
    return container.logs(tail=count).decode("utf-8", errors="replace").rstrip()


def gateway_of(folder: Path, compose: ComposeFile, key: str | None) -> Gateway:
    """Return the server's address on this machine.

    Args:
        folder: The bundle.
        compose: Its compose.yaml.
        key: An API key.
    """
    server = compose.services[SERVER]
    mode = server.environment.get("NIM_SSL_MODE") or "disabled"
    address = published(server.ports[0]).reached_at
    if mode == "disabled":
        return Gateway(f"http://{address}", key)
    certificate = server.environment.get("NIM_SSL_CERTS_PATH") or server.environment.get("NIM_SSL_CERT_PATH") or ""
    return Gateway(f"https://{address}", key, _path_on_host(folder, server, certificate), mutual=mode == "mtls")


def _path_on_host(folder: Path, service: Service, path: str) -> Path | None:
    """Find the source of a path in a container."""
    for volume in service.volumes:
        if volume.type == "bind" and PurePosixPath(path).is_relative_to(volume.target):
            return folder / volume.source / PurePosixPath(path).relative_to(volume.target)
    return None


def limit_of(compose: ComposeFile) -> int:
    """Return the seconds in which the server must be ready, from its health check."""
    check = compose.services[SERVER].healthcheck
    return seconds(check.start_period) if check else 0
