"""Starts a bundle: images, network, volumes and containers. A second start changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import NotFound

from orchestrator.deployment import images
from orchestrator.deployment.checks import holds, port_error, require_files, require_port
from orchestrator.deployment.compose_file import SERVER, ComposeFile, published, seconds
from orchestrator.deployment.container import (
    FOLDER,
    MEMORY,
    SPECIFICATION,
    BundleService,
    create_arguments,
    labels,
    specification,
)
from orchestrator.deployment.deployed_containers import remove
from orchestrator.deployment.digests import mount_digest
from orchestrator.deployment.memory import ServerMemory
from orchestrator.deployment.observer import Done, Observer, Phase
from orchestrator.errors import NameTakenError
from orchestrator.events import Warned
from orchestrator.executors.docker_arguments import LIMITS_UNRAISED
from orchestrator.executors.docker_client import DOCKER_ERRORS, explain, explained, require_architecture, require_gpus
from orchestrator.values import frozen

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient


@frozen
class Deployment:
    """A bundle in Docker."""

    client: DockerClient
    folder: Path
    compose: ComposeFile
    profiles: tuple[str, ...]
    observer: Observer
    memory: ServerMemory | None = None
    """None: it is not compared with what the server takes."""

    def start(self) -> Container:
        """Run every chosen service's container, created from the bundle's present files.

        Returns:
            The server's container.

        Raises:
            MachineError: Docker, its GPUs, a port or an image is missing.
            BundleIncompleteError: The bundle lacks a container's file.
            MemoryBudgetError: The server's weights do not fit into memory. Nothing was stopped.
        """
        chosen = {name: BundleService(self.folder, self.compose, name) for name in self.compose.chosen(self.profiles)}
        for placed in chosen.values():
            self._check(placed)
        ids = {name: self._image(placed) for name, placed in chosen.items()}
        self._network()
        containers: dict[str, Container] = {}
        for name, placed in chosen.items():
            for volume in placed.service.volumes:
                if volume.type == "volume":
                    self._volume(placed.volume(volume.source))
            containers[name] = self._container(placed, ids[name])
        return containers[SERVER]

    def _check(self, placed: BundleService) -> None:
        """Refuse what cannot work before anything is created."""
        service = placed.service
        require_files(placed)
        if service.platform:
            require_architecture(self.client, service.platform.rpartition("/")[2])
        if service.devices:
            require_gpus(self.client)
        found = self._find(placed)
        for port in map(published, service.ports):
            if found is None or not holds(found, port):
                require_port(self.client, port)

    def _image(self, placed: BundleService) -> str:
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
        name = BundleService(self.folder, self.compose, SERVER).network
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

    def _find(self, placed: BundleService) -> Container | None:
        """Find a service's container.

        Raises:
            NameTakenError: Another program created it.
        """
        with explained(f"looking for container {placed.container}"):
            try:
                found = self.client.containers.get(placed.container)
            except NotFound:
                return None
        if found.labels.get(FOLDER) != str(self.folder):
            raise self._taken(placed, found.labels.get(FOLDER))
        return found

    def _taken(self, placed: BundleService, owner: str | None) -> NameTakenError:
        if owner:
            by = f"from {owner}"
            hint = f"orchestrator --dist {Path(owner).parent} undeploy {self.folder.name}"
        else:
            by = "by another program, perhaps by Compose"
            file = self.folder / "compose.yaml"
            hint = f"docker compose --file {file} down, or: docker rm --force {placed.container}"
        return NameTakenError(f"a container {placed.container} exists already, created {by}", hint=hint)

    def _container(self, placed: BundleService, image: str) -> Container:
        """Run a service's container. A changed one is replaced."""
        content = ",".join(
            mount_digest(self.folder / volume.source) for volume in placed.service.volumes if volume.type == "bind"
        )
        found = self._find(placed)
        same = found is not None and found.labels.get(SPECIFICATION) == specification(placed, image, content)
        if placed.name == SERVER and self.memory and not (same and found and found.status == "running"):
            self.memory.check(found, self.observer)
        if found is not None and not same:
            self.observer(Phase(placed.name, "stopping it, because its image or settings have changed"))
            remove(found, seconds(placed.service.stop_grace_period))
            found = None
        if found is not None and found.status == "running":
            self.observer(Done(placed.name, "runs already"))
            return found
        container = found or self._create(placed, image, content, placed.service.ulimits)
        return self._start(placed, container, image, content)

    def _create(self, placed: BundleService, image: str, content: str, ulimits: Mapping[str, int]) -> Container:
        arguments = create_arguments(
            placed,
            image=image,
            content=content,
            ulimits=ulimits,
            version=self.client.api.api_version,
        )
        if self.memory and placed.name == SERVER:
            arguments["labels"][MEMORY] = str(self.memory.serving)
        with explained(f"creating container {placed.container}"):
            created = self.client.api.create_container(**arguments)
            return self.client.containers.get(created["Id"])

    def _start(self, placed: BundleService, container: Container, image: str, content: str) -> Container:
        doing = f"starting container {placed.container}"
        try:
            container.start()
        except DOCKER_ERRORS as error:
            reason = str(getattr(error, "explanation", None) or error)
            if "rlimit" not in reason or not set(placed.service.ulimits) - set(LIMITS_UNRAISED):
                with suppress(*DOCKER_ERRORS):
                    container.remove(force=True)
                raise port_error(placed.service, reason) or explain(error, doing) from error
            self.observer(
                Warned("Docker may not raise the limit of locked memory; the container gets Docker's own limit")
            )
            remove(container, 0)
            limits = {name: limit for name, limit in placed.service.ulimits.items() if name in LIMITS_UNRAISED}
            container = self._create(placed, image, content, limits)
            with explained(doing):
                container.start()
        container.reload()
        return container
