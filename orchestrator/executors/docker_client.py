"""Connects to Docker (or Podman's socket), and turns its errors into ours."""

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

DOCKER_ERRORS = (DockerException, requests.RequestException)
"""Exceptions of the SDK if Docker refuses or stops."""

_TIMEOUT = 120
"""Seconds. Creating a container from a large image on a slow disk takes that long."""

_LONG_TIMEOUT = 3600
"""Seconds. Older versions of Docker write a whole image of 30 GB to disk first."""

_START_DOCKER = (
    "start it: sudo systemctl start docker (to install it: sudo apt-get install -y docker.io; "
    "for Podman: systemctl --user start podman.socket and "
    "export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock)"
)
_ADD_GPU_RUNTIME = (
    "sudo apt-get install -y nvidia-container-toolkit && sudo nvidia-ctk runtime configure --runtime=docker "
    "&& sudo systemctl restart docker"
)
_CONTAINERD = "/var/lib/containerd"
"""The image folder of a Docker that uses containerd for images, as new ones do."""
_GPU_TOOLS = ("nvidia-container-runtime-hook", "nvidia-container-cli", "nvidia-ctk")
_GPU_COMPLAINTS = ("could not select device driver", "nvidia-container-cli", "gpu vendor from cdi", "unresolvable cdi")


def connect(environment: Mapping[str, str] = os.environ) -> DockerClient:
    """Connect to Docker by DOCKER_HOST, else by the current Docker context.

    Raises:
        NoPermissionError: The user may not use its socket.
        DockerUnavailableError: Docker does not answer.
    """
    host = environment.get("DOCKER_HOST") or "the current Docker context"
    try:
        host = _host(environment)
        _check_socket(host)
        return _client(environment)
    except PermissionError as error:
        message = f"{host}: no permission to use Docker"
        raise NoPermissionError(message, hint="sudo usermod -aG docker $USER, then log in again") from error
    except OSError as error:  # requests' errors as well
        message = f"Docker does not answer on {host}: {error.strerror or error}"
        raise DockerUnavailableError(message, hint=_START_DOCKER) from error
    except (
        DockerException,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # something else answers, or no address at all
        message = f"Docker does not answer on {host}: {error}"
        raise DockerUnavailableError(message, hint=_START_DOCKER) from error


def _host(environment: Mapping[str, str]) -> str:
    of_context = ContextAPI.kwargs_from_context(environment=environment)
    return environment.get("DOCKER_HOST") or of_context.get("base_url") or DEFAULT_UNIX_SOCKET


def _check_socket(host: str) -> None:
    """Check the socket. The SDK's own message is less clear, and it leaks a socket."""
    scheme, _, path = host.partition("://")
    if scheme in ("unix", "http+unix"):
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect("/" + path.lstrip("/"))


def _client(environment: Mapping[str, str]) -> DockerClient:
    """Create a client with Docker's own API version."""
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
        doing: The current action, for the message.
    """
    try:
        yield
    except DOCKER_ERRORS as error:
        raise explain(error, doing) from error


@contextmanager
def long_timeout(client: DockerClient) -> Iterator[None]:
    """Wait longer for the next byte of an answer, because Docker prepares a large image before it sends it."""
    before, client.api.timeout = client.api.timeout, _LONG_TIMEOUT
    try:
        yield
    finally:
        client.api.timeout = before


def explain(error: Exception, doing: str) -> MachineError:
    """Describe what Docker could not do."""
    reason = error.explanation if isinstance(error, APIError) and error.explanation else str(error)
    message = f"{doing}: {reason}"
    lower = reason.lower()
    if any(complaint in lower for complaint in _GPU_COMPLAINTS):
        return GpuRuntimeMissingError(message, hint=_ADD_GPU_RUNTIME)
    if "no space left on device" in lower:
        return DiskFullError(message, hint="docker system df shows what Docker keeps, docker system prune removes it")
    if "docker-init" in lower:
        return DockerUnavailableError(message, hint="Docker lacks its init program: sudo apt-get install -y tini")
    if isinstance(error, APIError):
        return MachineError(message)
    return DockerUnavailableError(message, hint=_START_DOCKER)


def require_architecture(client: DockerClient, architecture: str) -> None:
    """Refuse a Docker with another processor than the target's. Emulation would take days and proves nothing.

    Raises:
        WrongArchitectureError: It has another processor.
    """
    with explained("reading Docker's architecture"):
        found = client.version()["Arch"]
    if found != architecture:
        message = f"the target's images are for {architecture}, Docker runs on {found}"
        raise WrongArchitectureError(
            message, hint="run the build on the target itself, or choose a target like this one"
        )


def require_gpus(client: DockerClient) -> None:
    """Refuse a Docker that cannot provide a GPU.

    Raises:
        GpuRuntimeMissingError: It has no NVIDIA runtime and no CDI device, and the toolkit is not installed.
    """
    with explained("reading Docker's runtimes"):
        info = client.info()
    known = "nvidia" in info.get("Runtimes", {}) or info.get("DiscoveredDevices")
    if not known and not any(shutil.which(tool) for tool in _GPU_TOOLS):
        message = "a GPU is needed, and Docker has no NVIDIA runtime"
        raise GpuRuntimeMissingError(message, hint=_ADD_GPU_RUNTIME)


def images_folder(client: DockerClient) -> Path | None:
    """Find Docker's image folder; None if it is not on this machine or not known."""
    if not client.api.base_url.startswith("http+docker://"):  # the SDK's scheme for a socket of this machine
        return None
    with explained("reading Docker's image folder"):
        info = client.info()
    if "Docker Desktop" in info.get("OperatingSystem", ""):  # a machine of its own
        return None
    driver = dict(pair for pair in info.get("DriverStatus") or () if len(pair) == 2)  # noqa: PLR2004 - name and value
    kept = _CONTAINERD if "containerd" in driver.get("driver-type", "") else info.get("DockerRootDir", "")
    return Path(kept) if kept and os.path.isdir(kept) else None  # noqa: PTH112 - also False without access


def user_of(client: DockerClient) -> User:
    """Find the user of a container, so that its files belong to the caller.

    In the user namespace of a rootless Docker the caller is root.
    """
    with explained("reading Docker's security options"):
        options = client.info().get("SecurityOptions") or ()
    return User(0, 0) if any("rootless" in option for option in options) else User.caller()
