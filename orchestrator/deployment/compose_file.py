"""Reads a bundle's compose.yaml into typed values. Only the part of Compose that bundles use is supported.

The user may change compose.yaml and `.env` beside it. Supported keys take effect. An unsupported key is an error
that names the line, so that no setting is ignored silently.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from orchestrator.bundle.files import SUMS
from orchestrator.documents.validate import validate
from orchestrator.documents.yaml_text import Data, parse
from orchestrator.errors import BundleIncompleteError, ComposeUnsupportedError, machine_faults

COMPOSE = "compose.yaml"
ENVIRONMENT = ".env"
SERVER = "server"
"""The service of the model. The others belong to a profile."""

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)|"
    r"\{(?P<name>[A-Za-z_]\w*)(?:(?P<rule>:?[-?])(?P<rest>[^}]*))?\}|"
    r"(?P<unknown>\{[^}]*\}?))"
)
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)")
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_PORT = re.compile(r"(?:(?P<address>[0-9.]+|\[[0-9a-f:]+\]):)?(?P<host>\d{1,5}):(?P<container>\d{1,5})")


def seconds(duration: str) -> int:
    """Read a duration such as `1h30m` or `90s`.

    Raises:
        ValueError: It is something else.
    """
    found = _DURATION.fullmatch(duration)
    if found is None or not duration:
        message = "expected a duration such as 90s or 1h30m"
        raise ValueError(message)
    hours, minutes, rest = (int(part or 0) for part in found.groups())
    return (hours * 60 + minutes) * 60 + rest


def _checked(duration: str) -> str:
    seconds(duration)
    return duration


Duration = Annotated[str, AfterValidator(_checked)]
"""A string that `seconds` reads."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Build(_Part):
    """How an image is built from the bundle's folder."""

    context: Literal["."]
    dockerfile: str = "Dockerfile"
    args: dict[str, str] = {}
    network: Literal["none", "default"] = "default"


class Volume(_Part):
    """A file, a folder or a volume inside a container."""

    type: Literal["bind", "volume"]
    source: str
    """A path relative to the bundle, or the name of a volume."""
    target: str
    read_only: bool = False


class Healthcheck(_Part):
    """How Docker checks whether a container is healthy."""

    test: tuple[str, ...]
    interval: Duration = "30s"
    timeout: Duration = "30s"
    retries: int = 3
    start_period: Duration = "0s"


class Devices(_Part):
    """GPUs that a container is given."""

    driver: str = "nvidia"
    count: int | Literal["all"] | None = None
    device_ids: tuple[str, ...] = ()
    capabilities: tuple[str, ...]


class Reservations(_Part):
    """The reserved resources of a service."""

    devices: tuple[Devices, ...] = ()


class Resources(_Part):
    """The resources of a service."""

    reservations: Reservations = Reservations()


class Deploy(_Part):
    """Compose's `deploy` of a service."""

    resources: Resources = Resources()


class Logging(_Part):
    """The log driver of a container."""

    driver: str
    options: dict[str, str] = {}


class Service(_Part):
    """One container."""

    image: str
    build: Build | None = None
    platform: str | None = None
    profiles: tuple[str, ...] = ()
    user: str | None = None
    command: tuple[str, ...] | None = None
    environment: dict[str, str] = {}
    ports: tuple[str, ...] = ()
    """`ADDRESS:PORT:PORT`"""
    volumes: tuple[Volume, ...] = ()
    tmpfs: tuple[str, ...] = ()
    read_only: bool = False
    init: bool = False
    shm_size: str | None = None
    ulimits: dict[str, int] = {}
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    restart: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    stop_grace_period: Duration = "10s"
    healthcheck: Healthcheck | None = None
    logging: Logging | None = None
    deploy: Deploy = Deploy()

    @field_validator("ports")
    @classmethod
    def _are_ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for port in value:
            published(port)
        return value

    @property
    def devices(self) -> tuple[Devices, ...]:
        """The requested GPUs."""
        return self.deploy.resources.reservations.devices


class ComposeFile(_Part):
    """A complete compose.yaml with its variables replaced."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    services: dict[str, Service]
    volumes: dict[str, None] = {}

    @field_validator("services")
    @classmethod
    def _has_a_server(cls, value: dict[str, Service]) -> dict[str, Service]:
        if SERVER not in value or not value[SERVER].ports or value[SERVER].profiles:
            message = f"expected a service `{SERVER}` without a profile, with a port that this machine reaches"
            raise ValueError(message)
        return value

    def chosen(self, profiles: tuple[str, ...]) -> dict[str, Service]:
        """Return the services without a profile, and those of some profiles."""
        return {
            name: service
            for name, service in self.services.items()
            if not service.profiles or set(service.profiles) & set(profiles)
        }

    @property
    def profiles(self) -> tuple[str, ...]:
        """All profiles."""
        return tuple(dict.fromkeys(profile for service in self.services.values() for profile in service.profiles))


class Published(_Part):
    """A published port of a container."""

    address: str
    host: int = Field(ge=1, le=65535)
    container: int = Field(ge=1, le=65535)

    @property
    def host_ip(self) -> str:
        """The address as Docker writes it: IPv6 without brackets."""
        return self.address.strip("[]")

    @property
    def reached_at(self) -> str:
        """The address at which this machine reaches it."""
        anywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared, not listened on
        return f"{anywhere.get(self.address, self.address)}:{self.host}"


def published(port: str) -> Published:
    """Read `ADDRESS:PORT:PORT`. Without an address, Compose uses all addresses of the machine.

    Raises:
        ValueError: It is something else.
    """
    found = _PORT.fullmatch(port)
    if found is None:
        message = "expected ADDRESS:PORT:PORT, e.g. 127.0.0.1:8000:8000"
        raise ValueError(message)
    address = found["address"] or "0.0.0.0"  # noqa: S104 - Compose's default
    return Published(address=address, host=int(found["host"]), container=int(found["container"]))


def read(folder: Path, shell: Mapping[str, str] = os.environ) -> ComposeFile:
    """Read a bundle's compose.yaml. Variables come from the shell, then from `.env`, then from their defaults.

    Args:
        folder: The bundle.
        shell: Variables that were set for this run.

    Raises:
        BundleIncompleteError: It is missing.
        ComposeUnsupportedError: It has an unsupported setting.
        DocumentSyntaxError: It is not YAML.
    """
    file = folder / COMPOSE
    try:
        text = file.read_bytes()
    except OSError as error:
        raise _no_file(folder) from error
    document = parse(text, file)
    variables = {**_assignments(folder / ENVIRONMENT), **shell}
    data = _filled(document.data, variables, file)
    try:
        return validate(ComposeFile, data, document.positions, ComposeUnsupportedError)
    except ComposeUnsupportedError as error:
        hint = f"Compose itself may support it: docker compose --file {file} up --detach"
        raise ComposeUnsupportedError(error.message, hint=hint) from error


def image_variables(folder: Path) -> Mapping[str, tuple[str, str]]:
    """Return the variable that sets the image of a service, and its default, by the service's name."""
    services = parse((folder / COMPOSE).read_bytes(), folder / COMPOSE).data.get("services")
    described = services.items() if isinstance(services, dict) else ()
    images = {name: service.get("image") for name, service in described if isinstance(service, dict)}
    found = {name: _VARIABLE.fullmatch(str(image)) for name, image in images.items()}
    return {name: (each["name"], each["rest"] or "") for name, each in found.items() if each and each["name"]}


def _no_file(folder: Path) -> BundleIncompleteError:
    start = folder / "two-sparks" / "start.sh"
    if start.is_file():
        message = f"{folder.name} is served by two machines together, but this command starts only one"
        return BundleIncompleteError(message, hint=f"on the first of them: {start}")
    if (folder / SUMS).is_file():
        message = f"{folder} has no {COMPOSE}: it was written for other ways to deploy, which its README.md lists"
        hint = f"orchestrator bundle {folder.name} --target compose (without serve.cluster in the recipe)"
        return BundleIncompleteError(message, hint=hint)
    return BundleIncompleteError(f"there is no {folder / COMPOSE}", hint=f"orchestrator build {folder.name}")


def _assignments(file: Path) -> dict[str, str]:
    """Read `NAME=value` lines, as Compose reads `.env`."""
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    try:
        with machine_faults(f"reading {file}"):
            lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        message = f"{file}: not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        raise ComposeUnsupportedError(message, hint="save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        assignment = _ASSIGNMENT.fullmatch(text)
        if assignment is None:
            message = f"{file}:{number}: expected NAME=value"
            raise ComposeUnsupportedError(message)
        found[assignment[1]] = _unquoted(assignment[2])
    return found


def _unquoted(value: str) -> str:
    for quote in ("'", '"'):
        if value.startswith(quote) and (end := value.find(quote, 1)) > 0:
            return value[1:end]
    return value.partition(" #")[0].strip()


def _filled(data: Data, variables: Mapping[str, str], file: Path) -> Data:
    """Replace variables in every string except keys."""
    match data:
        case str():
            return _VARIABLE.sub(lambda found: _value(found, variables, file), data)
        case list():
            return [_filled(item, variables, file) for item in data]
        case dict():
            return {key: _filled(item, variables, file) for key, item in data.items()}
        case _:
            return data


def _value(found: re.Match[str], variables: Mapping[str, str], file: Path) -> str:
    if found["escaped"]:
        return "$"
    if found["unknown"]:
        message = f"{file}: ${found['unknown']}: expected ${{NAME}}, ${{NAME:-default}} or ${{NAME:?message}}"
        raise ComposeUnsupportedError(message)
    name, rule = found["name"] or found["plain"], found["rule"] or ""
    value = variables.get(name)
    if value or (value is not None and not rule.startswith(":")):
        return value
    if rule.endswith("?"):
        message = f"{file}: {name} must be set: {found['rest']}"
        raise ComposeUnsupportedError(message, hint=f"write {name}=… into {file.parent / ENVIRONMENT}")
    return found["rest"] or ""
