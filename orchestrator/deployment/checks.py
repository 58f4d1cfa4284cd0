"""Checks files, permissions and ports before anything is created in Docker."""

from __future__ import annotations

import errno
import re
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.deployment.compose_file import Published, Service
from orchestrator.deployment.container import BundleService
from orchestrator.errors import BundleIncompleteError, NoPermissionError, PortInUseError
from orchestrator.executors.docker_client import explained

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

_OTHER_PORT = "stop the program that listens there (sudo ss -ltnp shows it), or set another PORT=… in the bundle's .env"


def require_files(placed: BundleService) -> None:
    """Refuse a service whose files are missing, or unreadable for its user.

    Raises:
        BundleIncompleteError: A file is missing.
        NoPermissionError: The user may not read a file.
    """
    for volume in placed.service.volumes:
        source = placed.folder / volume.source
        if volume.type == "bind" and not source.exists():
            message = f"{placed.name}: {source} is missing"
            hint = f"write the bundle again: orchestrator build {placed.folder.name}"
            raise BundleIncompleteError(message, hint=hint)
        if volume.type == "bind" and placed.service.user:
            _require_readable(source, placed.service.user)


def _require_readable(source: Path, user: str) -> None:
    """Refuse files that the container's user may not read, such as a model with a strict umask.

    Args:
        source: The mounted path.
        user: `UID:GID`. Other forms are left to Docker.

    Raises:
        NoPermissionError: The user may not read it.
    """
    if re.fullmatch(r"\d+:\d+", user) is None or user.startswith("0:"):
        return
    uid, gid = map(int, user.split(":"))
    for path in (source, *source.rglob("*")) if source.is_dir() else (source,):
        status = path.stat()
        needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        if status.st_mode & needed << shift != needed << shift:
            message = f"{path} cannot be read by uid {uid} and gid {gid}, which the server has"
            raise NoPermissionError(message, hint=f"chmod -R o+rX {source}, or RUN_AS={status.st_uid}:0 in .env")


def require_port(client: DockerClient, port: Published) -> None:
    """Refuse a port that is in use.

    Raises:
        PortInUseError: Another program listens on it.
    """
    family = socket.AF_INET6 if port.address.startswith("[") else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host_ip, port.host))
        except OSError as error:
            if error.errno == errno.EACCES:  # a low port: Docker may be allowed to use it even if we are not
                return
            who = _publisher(client, port.host)
            message = f"port {port.host} of {port.address} cannot be used: {error.strerror}{who}"
            raise PortInUseError(message, hint=_OTHER_PORT) from error


def _publisher(client: DockerClient, port: int) -> str:
    with explained("listing containers"):
        for container in client.containers.list(ignore_removed=True):
            if any(str(port) == place["HostPort"] for places in container.ports.values() for place in places or ()):
                return f"; the container {container.name} has it"
    return ""


def holds(container: Container, port: Published) -> bool:
    """Tell whether a container runs and has the port already."""
    bound = (container.attrs["HostConfig"]["PortBindings"] or {}).get(f"{port.container}/tcp") or ()
    ours = {"HostIp": port.host_ip, "HostPort": str(port.host)}
    return container.status in {"running", "restarting"} and ours in bound


def port_error(service: Service, reason: str) -> PortInUseError | None:
    """Recognise Docker's error for a port that was taken meanwhile."""
    if not service.ports or not any(
        words in reason for words in ("port is already allocated", "address already in use")
    ):
        return None
    return PortInUseError(reason, hint=_OTHER_PORT)
