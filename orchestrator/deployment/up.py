"""Brings a bundle up: images, network, containers; waits until the server is ready. Twice is the same as once."""

from __future__ import annotations

import errno
import re
import socket
import stat
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from docker.errors import APIError, NotFound

from orchestrator.deployment import images
from orchestrator.deployment.compose_file import SERVER, ComposeFile, Published, Service, published, seconds
from orchestrator.deployment.container import (
    FOLDER,
    RECIPE,
    SPECIFICATION,
    Placed,
    create_arguments,
    labels,
    specification,
)
from orchestrator.deployment.content import of_mount
from orchestrator.deployment.made import engine_health, remove
from orchestrator.deployment.question import Gateway
from orchestrator.errors import (
    BundleIncompleteError,
    NameTakenError,
    NoPermissionError,
    PortInUseError,
    ServerEndedError,
    ServerNotReadyError,
)
from orchestrator.events import Event, Warned
from orchestrator.executors.docker_arguments import LIMITS_UNRAISED
from orchestrator.executors.docker_engine import ENGINE_ERRORS, explain, explained, require_architecture, require_gpus

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

_LAST_LINES = 20
_POLL = 0.5
_ENDED = frozenset({"exited", "dead", "restarting"})


@dataclass(frozen=True)
class Phase:
    """What is being done, or waited for."""

    what: str
    """`image`, `container` or `server`."""
    text: str
    """`building`, `loading`, …"""
    seconds: float = 0.0
    """For how long so far."""
    limit: float = 0.0
    """How long it may take; 0: nobody knows."""
    detail: str = ""
    """What it said last."""


@dataclass(frozen=True)
class Done:
    """What was reached."""

    what: str
    text: str


class Observer(Protocol):
    """Whoever wants to know; must not raise."""

    def __call__(self, event: Event | Phase | Done) -> None:
        """Take one event."""


@dataclass(frozen=True)
class Deployment:
    """A bundle on an engine."""

    client: DockerClient
    folder: Path
    compose: ComposeFile
    profiles: tuple[str, ...]
    observer: Observer

    def bring_up(self) -> Container:
        """Have every chosen service's container run, made from what the bundle holds now.

        Returns:
            The server's container.

        Raises:
            MachineError: The engine, its GPUs, a port or an image is not there.
            BundleIncompleteError: The bundle lacks what a container shall see.
        """
        chosen = {name: Placed(self.folder, self.compose, name) for name in self.compose.chosen(self.profiles)}
        for placed in chosen.values():
            self._check(placed)
        ids = {name: self._image(placed) for name, placed in chosen.items()}
        self._network()
        for name, placed in chosen.items():
            for volume in placed.service.volumes:
                if volume.type == "volume":
                    self._volume(placed.volume(volume.source))
            container = self._container(placed, ids[name])
            if name == SERVER:
                server = container
        return server

    def _check(self, placed: Placed) -> None:
        """Refuse what cannot work before anything is made."""
        service = placed.service
        for volume in service.volumes:
            if volume.type == "bind" and not (self.folder / volume.source).exists():
                message = f"{placed.name}: {self.folder / volume.source} is not there"
                raise BundleIncompleteError(
                    message, hint=f"write the bundle again: orchestrator build {self.folder.name}"
                )
            if volume.type == "bind" and service.user:
                require_readable(self.folder / volume.source, service.user)
        if service.platform:
            require_architecture(self.client, service.platform.rpartition("/")[2])
        if service.devices:
            require_gpus(self.client)
        running = self._find(placed)
        for port in map(published, service.ports):
            if not (running and running.status in {"running", "restarting"}):
                require_port(self.client, port)

    def _image(self, placed: Placed) -> str:
        began = time.monotonic()
        service = placed.service
        self.observer(Phase("image", f"looking for {service.image}"))
        before = images.find(self.client, service.image)
        found = images.ensure(self.client, service, self.folder, self.observer)
        if before is not None and before.id == found:
            self.observer(Done("image", f"{service.image} is there"))
        else:
            verb = "built" if service.build else "pulled"
            self.observer(Done("image", f"{service.image} {verb} in {time.monotonic() - began:.0f} s"))
        return found

    def _network(self) -> None:
        name = Placed(self.folder, self.compose, SERVER).network
        with explained(f"creating network {name}"):
            found = [network for network in self.client.networks.list(names=[name]) if network.name == name]
            if not found:
                self.client.networks.create(name, driver="bridge", labels=labels(self.folder))

    def _volume(self, name: str) -> None:
        with explained(f"creating volume {name}"):
            try:
                self.client.volumes.get(name)
            except NotFound:
                self.client.volumes.create(name, labels=labels(self.folder))

    def _find(self, placed: Placed) -> Container | None:
        """Find a service's container.

        Raises:
            NameTakenError: Somebody else made it.
        """
        with explained(f"looking for container {placed.container}"):
            try:
                found = self.client.containers.get(placed.container)
            except NotFound:
                return None
        if found.labels.get(FOLDER) != str(self.folder):
            raise self._taken(placed, found.labels.get(FOLDER))
        return found

    def _taken(self, placed: Placed, owner: str | None) -> NameTakenError:
        if owner:
            by = f"from {owner}"
            hint = f"orchestrator --dist {Path(owner).parent} undeploy {self.folder.name}"
        else:
            by = "by something else, perhaps by Compose"
            file = self.folder / "compose.yaml"
            hint = f"docker compose --file {file} down, or: docker rm --force {placed.container}"
        return NameTakenError(f"a container {placed.container} is there already, made {by}", hint=hint)

    def _container(self, placed: Placed, image: str) -> Container:
        """Have a service's container run; one of another making is replaced."""
        content = ",".join(
            of_mount(self.folder / volume.source) for volume in placed.service.volumes if volume.type == "bind"
        )
        found = self._find(placed)
        if found is not None and found.labels.get(SPECIFICATION) != specification(placed, image, content):
            self.observer(Phase(placed.name, "stopping it: what it is made of has changed"))
            remove(found, seconds(placed.service.stop_grace_period))
            found = None
        if found is not None and found.status == "running":
            self.observer(Done(placed.name, "runs already"))
            return found
        container = found or self._create(placed, image, content, placed.service.ulimits)
        return self._start(placed, container, image, content)

    def _create(self, placed: Placed, image: str, content: str, ulimits: Mapping[str, int]) -> Container:
        arguments = create_arguments(
            placed,
            image=image,
            content=content,
            ulimits=ulimits,
            version=self.client.api.api_version,
        )
        with explained(f"creating container {placed.container}"):
            made = self.client.api.create_container(**arguments)
            return self.client.containers.get(made["Id"])

    def _start(self, placed: Placed, container: Container, image: str, content: str) -> Container:
        doing = f"starting container {placed.container}"
        try:
            container.start()
        except ENGINE_ERRORS as error:
            said = str(getattr(error, "explanation", None) or error)
            if "rlimit" not in said or not set(placed.service.ulimits) - set(LIMITS_UNRAISED):
                with suppress(*ENGINE_ERRORS):
                    container.remove(force=True)
                raise _port_error(placed.service, said) or explain(error, doing) from error
            self.observer(
                Warned("the engine may not raise the limit of locked memory; the container gets the engine's")
            )
            remove(container, 0)
            limits = {name: limit for name, limit in placed.service.ulimits.items() if name in LIMITS_UNRAISED}
            container = self._create(placed, image, content, limits)
            with explained(doing):
                container.start()
        container.reload()
        return container


def require_readable(source: Path, user: str) -> None:
    """Refuse files that the container's user may not read: a model that somebody's umask has closed to others.

    Args:
        source: What is mounted.
        user: `UID:GID`; anything else is left to the engine.

    Raises:
        NoPermissionError: It may not.
    """
    if re.fullmatch(r"\d+:\d+", user) is None or user.startswith("0:"):
        return
    uid, gid = map(int, user.split(":"))
    for path in (source, *source.rglob("*")) if source.is_dir() else (source,):
        status = path.stat()
        wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        if status.st_mode & wanted << shift != wanted << shift:
            message = f"{path} cannot be read by uid {uid} and gid {gid}, as whom the server runs"
            raise NoPermissionError(message, hint=f"chmod -R o+rX {source}, or RUN_AS={status.st_uid}:0 in .env")


def require_port(client: DockerClient, port: Published) -> None:
    """Refuse a port on which somebody listens.

    Raises:
        PortInUseError: Somebody does.
    """
    family = socket.AF_INET6 if port.address.startswith("[") else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.address.strip("[]"), port.host))
        except OSError as error:
            if error.errno == errno.EACCES:  # a low port: the engine may take it even where we may not
                return
            who = _publisher(client, port.host)
            message = f"port {port.host} of {port.address} cannot be used: {error.strerror}{who}"
            raise PortInUseError(message, hint=_OTHER_PORT) from error


_OTHER_PORT = "end what listens there (sudo ss -ltnp shows it), or write another PORT=… into .env in the bundle"


def _publisher(client: DockerClient, port: int) -> str:
    with explained("listing containers"):
        for container in client.containers.list(ignore_removed=True):
            if any(str(port) == place["HostPort"] for places in container.ports.values() for place in places or ()):
                return f"; the container {container.name} has it"
    return ""


def _port_error(service: Service, said: str) -> PortInUseError | None:
    if not service.ports or not any(words in said for words in ("port is already allocated", "address already in use")):
        return None
    return PortInUseError(said, hint=_OTHER_PORT)


def wait_until_ready(container: Container, gateway: Gateway, limit: float, observer: Observer) -> float:
    """Wait until the server answers.

    Args:
        container: The server's.
        gateway: Where it is reached.
        limit: Seconds that it may take from its start.
        observer: Hears what is waited for.

    Returns:
        Seconds that were waited.

    Raises:
        ServerEndedError: It ended; it is stopped, so that it is not started over and over, and stays for its log.
        ServerNotReadyError: It took too long; it goes on.
    """
    began = time.monotonic()
    with explained(f"watching container {container.name}"):
        container.reload()
        restarts = container.attrs["RestartCount"]
        while True:
            health = engine_health(container) if gateway.mutual else gateway.health()
            waited = time.monotonic() - began
            if health.ready:
                return waited
            container.reload()
            if container.status in _ENDED or container.attrs["RestartCount"] > restarts:
                raise _ended(container)
            if waited > limit:
                raise _too_late(container, limit, health.message)
            text = "loading the model" if health.live else "starting"
            observer(Phase("server", text, waited, limit, _said_last(container)))
            time.sleep(_POLL)


def _ended(container: Container) -> ServerEndedError:
    state = container.attrs["State"]
    with suppress(APIError):
        container.stop(timeout=1)
    why = ", killed for lack of memory" if state.get("OOMKilled") else ""
    message = f"the server ended with status {state['ExitCode']}{why} before it was ready; its last lines:\n"
    return ServerEndedError(message + _last_lines(container), hint=f"all of them: docker logs {container.name}")


def _too_late(container: Container, limit: float, said: str) -> ServerNotReadyError:
    reason = f" ({said})" if said else ""
    message = f"the server is not ready after {limit:.0f} s{reason}; it goes on starting. Its last lines:\n"
    return ServerNotReadyError(
        message + _last_lines(container), hint=f"wait on: orchestrator deploy {container.labels[RECIPE]}"
    )


def _last_lines(container: Container) -> str:
    return _tail(container, _LAST_LINES) or "(it wrote nothing)"


def _said_last(container: Container) -> str:
    return "".join(_tail(container, 1).splitlines()[-1:])


def _tail(container: Container, count: int) -> str:
    return container.logs(tail=count).decode("utf-8", errors="replace").rstrip()


def gateway_of(folder: Path, compose: ComposeFile, key: str | None) -> Gateway:
    """Say where the server is reached from this machine.

    Args:
        folder: The bundle.
        compose: What its compose.yaml says.
        key: An API key to ask with.
    """
    server = compose.services[SERVER]
    mode = server.environment.get("NIM_SSL_MODE") or "disabled"
    at = published(server.ports[0]).reached_at
    if mode == "disabled":
        return Gateway(f"http://{at}", key)
    certificate = server.environment.get("NIM_SSL_CERTS_PATH") or server.environment.get("NIM_SSL_CERT_PATH") or ""
    return Gateway(f"https://{at}", key, _outside(folder, server, certificate), mutual=mode == "mtls")


def _outside(folder: Path, service: Service, place: str) -> Path | None:
    """Find what a container sees at a place."""
    for volume in service.volumes:
        if volume.type == "bind" and PurePosixPath(place).is_relative_to(volume.target):
            return folder / volume.source / PurePosixPath(place).relative_to(volume.target)
    return None


def limit_of(compose: ComposeFile) -> int:
    """Seconds that the server may take to be ready: what its health check grants it."""
    check = compose.services[SERVER].healthcheck
    return seconds(check.start_period) if check else 0
