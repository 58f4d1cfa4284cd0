"""The way to a Docker engine (or Podman's socket), and its refusals in our words."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from docker.constants import DEFAULT_UNIX_SOCKET, MINIMUM_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.errors import APIError, DockerException

from docker import DockerClient
from orchestrator.errors import (
    DiskFullError,
    DockerUnavailableError,
    GpuRuntimeMissingError,
    MachineError,
    NoPermissionError,
    WrongArchitectureError,
)
from orchestrator.executors.docker_arguments import User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Connect = Callable[[], DockerClient]

ENGINE_ERRORS = (DockerException, requests.RequestException)
"""What the SDK raises when the engine refuses, is gone, or goes while it answers."""

_TIMEOUT = 120
"""Seconds; creating a container from a large image on a slow disk takes its time."""

_LONG_TIMEOUT = 3600
"""Seconds; older engines write a whole image of 30 GB to disk first."""

_START_ENGINE = (
    "start it: sudo systemctl start docker (to install it: sudo apt-get install -y docker.io; "
    "for Podman: systemctl --user start podman.socket and "
    "export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock)"
)
_ADD_GPU_RUNTIME = (
    "sudo apt-get install -y nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker "
    "&& sudo systemctl restart docker"
)
_CONTAINERD = "/var/lib/containerd"
"""Where engines keep images that leave that to containerd, as new ones do."""
_GPU_TOOLS = ("nvidia-container-runtime-hook", "nvidia-container-cli", "nvidia-ctk")
_GPU_COMPLAINTS = ("could not select device driver", "nvidia-container-cli", "gpu vendor from cdi", "unresolvable cdi")


def connect(environment: Mapping[str, str] = os.environ) -> DockerClient:
    """Connect to the engine that DOCKER_HOST names, else to that of the current Docker context.

    Raises:
        NoPermissionError: Its socket belongs to others.
        DockerUnavailableError: None answers.
    """
    host = _host(environment)
    try:
        _knock(host)
        return _client(environment)
    except PermissionError as error:
        message = f"{host}: no permission to use the Docker engine"
        raise NoPermissionError(message, hint="sudo usermod -aG docker $USER, then log in again") from error
    except OSError as error:  # requests' errors as well
        message = f"no Docker engine answers on {host}: {error.strerror or error}"
        raise DockerUnavailableError(message, hint=_START_ENGINE) from error
    except DockerException as error:
        message = f"no Docker engine answers on {host}: {error}"
        raise DockerUnavailableError(message, hint=_START_ENGINE) from error


def _host(environment: Mapping[str, str]) -> str:
    of_context = ContextAPI.kwargs_from_context(environment=environment)
    return environment.get("DOCKER_HOST") or of_context.get("base_url") or DEFAULT_UNIX_SOCKET


def _knock(host: str) -> None:
    """Try whether somebody listens; the SDK, which would find out as well, says it less clearly and leaks a socket."""
    scheme, _, path = host.partition("://")
    if scheme in ("unix", "http+unix"):
        with closing(socket.socket(socket.AF_UNIX)) as door:
            door.settimeout(_TIMEOUT)
            door.connect("/" + path.lstrip("/"))


def _client(environment: Mapping[str, str]) -> DockerClient:
    """Make a client that speaks the engine's own version of the API."""
    variables = dict(environment)
    with closing(
        DockerClient.from_env(version=MINIMUM_DOCKER_API_VERSION, environment=variables, timeout=_TIMEOUT)
    ) as client:
        version = client.api.version(api_version=False)["ApiVersion"]
    return DockerClient.from_env(version=version, environment=variables, timeout=_TIMEOUT)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn the SDK's errors into ours.

    Args:
        doing: What was being done, for the message.
    """
    try:
        yield
    except ENGINE_ERRORS as error:
        raise explain(error, doing) from error


@contextmanager
def patiently(client: DockerClient) -> Iterator[None]:
    """Wait longer for the next byte of an answer: engines prepare a large image before they send it."""
    before, client.api.timeout = client.api.timeout, _LONG_TIMEOUT
    try:
        yield
    finally:
        client.api.timeout = before


def explain(error: Exception, doing: str) -> MachineError:
    """Say in our words what the engine could not do."""
    said = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    message = f"{doing}: {said}"
    lower = said.lower()
    if any(complaint in lower for complaint in _GPU_COMPLAINTS):
        return GpuRuntimeMissingError(message, hint=_ADD_GPU_RUNTIME)
    if "no space left on device" in lower:
        return DiskFullError(
            message, hint="docker system df shows what the engine keeps, docker system prune clears it"
        )
    if "docker-init" in lower:
        return DockerUnavailableError(message, hint="the engine misses its init program: sudo apt-get install -y tini")
    if isinstance(error, APIError):
        return MachineError(message)
    return DockerUnavailableError(message, hint=_START_ENGINE)


def require_architecture(client: DockerClient, architecture: str) -> None:
    """Refuse an engine whose processor is not the target's; emulation would take days and proves nothing.

    Raises:
        WrongArchitectureError: It is another.
    """
    with explained("asking the engine for its architecture"):
        found = client.version()["Arch"]
    if found != architecture:
        message = f"the target's images are for {architecture}, this engine runs {found}"
        raise WrongArchitectureError(
            message, hint="run the build on the target itself, or choose a target like this one"
        )


def require_gpus(client: DockerClient) -> None:
    """Refuse an engine that surely cannot hand a GPU to a container.

    Raises:
        GpuRuntimeMissingError: It knows no NVIDIA runtime, no CDI device, and the toolkit is not installed.
    """
    with explained("asking the engine for its runtimes"):
        info = client.info()
    known = "nvidia" in info.get("Runtimes", {}) or info.get("DiscoveredDevices")
    if not known and not any(shutil.which(tool) for tool in _GPU_TOOLS):
        message = "a GPU is needed, and this engine has no NVIDIA runtime"
        raise GpuRuntimeMissingError(message, hint=_ADD_GPU_RUNTIME)


def images_folder(client: DockerClient) -> Path | None:
    """Find where an engine keeps its images; None where that is not on this machine, or cannot be known."""
    if not client.api.base_url.startswith("http+docker://"):  # the SDK's own word for a socket of this machine
        return None
    with explained("asking the engine where it keeps images"):
        info = client.info()
    if "Docker Desktop" in info.get("OperatingSystem", ""):  # a machine of its own
        return None
    driver = dict(pair for pair in info.get("DriverStatus") or () if len(pair) == 2)  # noqa: PLR2004 - name and value
    kept = _CONTAINERD if "containerd" in driver.get("driver-type", "") else info.get("DockerRootDir", "")
    return Path(kept) if kept and os.path.isdir(kept) else None  # noqa: PTH112 - False where we may not look, too


def user_of(client: DockerClient) -> User:
    """Find as whom a container must run so that its files belong to the caller.

    In the user namespace of a rootless engine the caller is root.
    """
    with explained("asking the engine for its security options"):
        options = client.info().get("SecurityOptions") or ()
    return User(0, 0) if any("rootless" in option for option in options) else User.caller()
