"""Describes a service's container for Docker, equal to Compose's container. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docker.types import (
    DeviceRequest,
    EndpointConfig,
    Healthcheck,
    HostConfig,
    LogConfig,
    Mount,
    Ulimit,
)

from orchestrator.deployment.compose_file import ComposeFile, Devices, Service, Volume, published, seconds
from orchestrator.executors.docker_arguments import LABEL
from orchestrator.values import frozen

RECIPE = LABEL + "deployment"
"""The label with the recipe's name, on everything that a deployment creates."""
FOLDER = LABEL + "folder"
"""The label with the bundle's path."""
SERVICE = LABEL + "service"
SPECIFICATION = LABEL + "specification"
"""A digest of everything that defines a container."""
MEMORY = LABEL + "memory"
"""Bytes that a server takes, as the plan says; on servers of machines with unified memory."""

_NANOSECONDS = 1_000_000_000


@frozen
class BundleService:
    """A service of a bundle."""

    folder: Path
    """The bundle."""
    compose: ComposeFile
    name: str

    @property
    def service(self) -> Service:
        """Its entry in compose.yaml."""
        return self.compose.services[self.name]

    @property
    def container(self) -> str:
        """The container's name. It is Compose's name, so that both cannot run together."""
        return f"{self.compose.name}-{self.name}-1"

    @property
    def network(self) -> str:
        """The network's name, also as in Compose."""
        return f"{self.compose.name}_default"

    def volume(self, name: str) -> str:
        """Docker's name of a volume."""
        return f"{self.compose.name}_{name}"


def labels(folder: Path) -> dict[str, str]:
    """Label what a deployment creates, so that only this is removed later."""
    return {RECIPE: folder.name, FOLDER: str(folder)}


def create_arguments(
    placed: BundleService, *, image: str, content: str, ulimits: Mapping[str, int], version: str
) -> dict[str, Any]:
    """Convert a service to arguments of `APIClient.create_container`.

    Args:
        placed: The service.
        image: The id of its image.
        content: A digest of the files that it gets.
        ulimits: Those of the service's limits that Docker can grant.
        version: The version of Docker's API.
    """
    service = placed.service
    marks = {**labels(placed.folder), SERVICE: placed.name, SPECIFICATION: specification(placed, image, content)}
    ports = [published(port) for port in service.ports]
    return {
        "image": service.image,
        "name": placed.container,
        "labels": marks,
        "user": service.user,
        "command": list(service.command) if service.command is not None else None,
        "environment": dict(service.environment),
        "ports": [(port.container, "tcp") for port in ports],
        "healthcheck": _healthcheck(service),
        "stop_timeout": seconds(service.stop_grace_period),
        "host_config": HostConfig(
            version,
            port_bindings={f"{port.container}/tcp": (port.host_ip, port.host) for port in ports},
            mounts=[_mount(placed, volume) for volume in service.volumes],
            tmpfs=dict(_place_and_options(entry) for entry in service.tmpfs),
            read_only=service.read_only,
            init=service.init or None,
            shm_size=service.shm_size,
            ulimits=[Ulimit(name=name, soft=limit, hard=limit) for name, limit in ulimits.items()],
            cap_drop=list(service.cap_drop),
            security_opt=list(service.security_opt),
            restart_policy={"Name": service.restart},
            log_config=_log(service),
            device_requests=[_devices(devices) for devices in service.devices],
            network_mode=placed.network,
        ),
        "networking_config": {
            "EndpointsConfig": {placed.network: EndpointConfig(version, aliases=[placed.name])},
        },
    }


def specification(placed: BundleService, image: str, content: str) -> str:
    """List everything that defines a container. If one value changes, the container is created again."""
    fields = {
        "format": 1,
        "service": placed.service.model_dump(mode="json", exclude={"build", "profiles"}),
        "image": image,
        "content": content,
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _mount(placed: BundleService, volume: Volume) -> Mount:
    bind = volume.type == "bind"
    where = str((placed.folder / volume.source).resolve()) if bind else placed.volume(volume.source)
    return Mount(type=volume.type, source=where, target=volume.target, read_only=volume.read_only)


def _log(service: Service) -> LogConfig | None:
    return LogConfig(type=service.logging.driver, config=service.logging.options) if service.logging else None


def _place_and_options(entry: str) -> tuple[str, str]:
    place, _, options = entry.partition(":")
    return place, options


def _healthcheck(service: Service) -> Healthcheck | None:
    check = service.healthcheck
    if check is None:
        return None
    return Healthcheck(
        test=list(check.test),
        interval=seconds(check.interval) * _NANOSECONDS,
        timeout=seconds(check.timeout) * _NANOSECONDS,
        retries=check.retries,
        start_period=seconds(check.start_period) * _NANOSECONDS,
    )


def _devices(devices: Devices) -> DeviceRequest:
    count = -1 if devices.count == "all" else devices.count
    return DeviceRequest(
        driver=devices.driver,
        count=0 if devices.device_ids else (-1 if count is None else count),  # none given: all of them
        device_ids=list(devices.device_ids),
        capabilities=[list(devices.capabilities)],
    )
