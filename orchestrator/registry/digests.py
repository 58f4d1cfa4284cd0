"""Resolves a tag to its digest over the registry's HTTP API, with a few kilobytes and no pull."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests
from docker.errors import DockerException
from dxf import DXF, DXFBase
from dxf.exceptions import DXFAuthInsecureError, DXFError, DXFUnauthorizedError

from docker import auth
from orchestrator.errors import ImageUnavailableError, RegistryAccessError, RegistryError
from orchestrator.values import frozen

_DOCKER_HUB, _DOCKER_HUB_API = "docker.io", "registry-1.docker.io"
_TIMEOUT = 30.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _TOO_MANY = 401, 403, 404, 429

Credentials = tuple[str, str]
"""User name and password or key."""


@frozen
class ImageDigests:
    """A tag, resolved."""

    index: str
    """The digest to pull by, `sha256:…`: of the index, or of the one image if there is no index."""
    platforms: Mapping[str, str]
    """The image's digest by processor architecture, for Linux."""
    sizes: Mapping[str, int]
    """Bytes of its layers as the registry sends them, by architecture, if it reports them."""


@frozen
class Reference:
    """The parts of an image's name."""

    host: str
    repository: str
    tag: str
    """Or a digest."""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a name as Docker does. Without a host, it is on Docker Hub."""
        name, _, digest = text.partition("@")
        head, slash, rest = name.partition("/")
        if not slash or not (set(head) & set(".:") or head == "localhost"):
            head, rest = _DOCKER_HUB, name if slash else f"library/{name}"
        repository, _, tag = rest.partition(":")
        return cls(head, repository, digest or tag or "latest")

    @property
    def is_loopback(self) -> bool:
        """Whether it is a registry of this machine. Docker uses plain HTTP only for those."""
        return self.host.partition(":")[0] in ("localhost", "127.0.0.1")

    def __str__(self) -> str:
        """Format it for a message."""
        return f"{self.host}/{self.repository}{'@' if ':' in self.tag else ':'}{self.tag}"


def docker_credentials(host: str) -> Credentials | None:
    """Read the credentials of `docker login`: its configuration file and the helpers named there.

    Raises:
        RegistryAccessError: They exist and cannot be used.
    """
    try:
        with warnings.catch_warnings():  # a missing helper is an error right after
            warnings.simplefilter("ignore")
            found: dict[str, Any] | None = auth.load_config().resolve_authconfig(host)
    except DockerException as error:
        message = f"Docker's credentials for {host} cannot be read: {type(error).__name__}"
        raise RegistryAccessError(message, hint=f"log in again: docker login {host}") from error
    if not found:
        return None
    fields = {name.lower(): value for name, value in found.items()}
    if fields.get("identitytoken"):
        message = f"Docker has an identity token for {host}, which only Docker itself can use"
        raise RegistryAccessError(message, hint=f"log in with a user name and a key: docker login {host}")
    user, password = fields.get("username"), fields.get("password")
    return (user, password) if user and password else None


def image_digests(
    reference: str,
    credentials: Callable[[str], Credentials | None] = docker_credentials,
    *,
    verify: bool | str = True,
) -> ImageDigests:
    """Resolve a tag.

    Args:
        reference: The image's name.
        credentials: Returns the credentials of a host; None: without a login.
        verify: A file of certificate authorities besides the system's own.

    Raises:
        RegistryError: One of its kinds.
        ImageUnavailableError: The registry has no such image.
    """
    parts = Reference.parse(reference)

    def log_in(session: DXFBase, response: requests.Response) -> None:
        user, password = credentials(parts.host) or (None, None)
        session.authenticate(user, password, response=response)

    host = _DOCKER_HUB_API if parts.host == _DOCKER_HUB else parts.host
    with (
        _registry_errors(parts),
        DXF(
            host,
            parts.repository,
            log_in,
            insecure=parts.is_loopback and verify is True,
            tlsverify=verify,
            timeout=_TIMEOUT,
        ) as registry,
    ):
        return _resolve(registry, parts)


def _resolve(registry: DXF, parts: Reference) -> ImageDigests:
    text, response = registry.get_manifest_and_response(parts.tag)
    index = f"sha256:{hashlib.sha256(response.content).hexdigest()}"
    announced = response.headers.get("Docker-Content-Digest", index)
    if announced != index:
        message = f"{parts}: the registry announces {announced} and sends {index}"
        raise RegistryError(message, hint="a proxy may be at fault; try again")
    manifest: dict[str, Any] = json.loads(text)
    if "manifests" in manifest:
        platforms = dict(_platforms(manifest))
        sizes = {name: _size_of(registry, digest) for name, digest in platforms.items()}
        return ImageDigests(index, platforms, {name: size for name, size in sizes.items() if size})
    pieces: Any = registry.pull_blob(manifest["config"]["digest"])  # a pair only on request
    architecture = json.loads(b"".join(pieces))["architecture"]
    return ImageDigests(index, {architecture: index}, {architecture: _size(manifest)})


def _size_of(registry: DXF, digest: str) -> int:
    """Return the size of one image of an index; 0 if it is not reported. A lock is complete without it."""
    with suppress(requests.RequestException, DXFError, ValueError):
        return _size(json.loads(registry.get_manifest_and_response(digest)[0]))
    return 0


def _size(manifest: dict[str, Any]) -> int:
    return sum(int(layer["size"]) for layer in manifest.get("layers", ()))


def _platforms(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for entry in manifest["manifests"]:
        platform = entry.get("platform", {})
        if platform.get("os") == "linux":  # an image's provenance has another one
            yield platform["architecture"], entry["digest"]


@contextmanager
def _registry_errors(parts: Reference) -> Iterator[None]:
    """Describe the failure. Addresses and answers are not quoted, because either may contain a token."""
    log_in = f"log in: docker login {parts.host}"
    if parts.host == "nvcr.io":
        log_in += " (user name $oauthtoken, password: your NGC key)"
    try:
        yield
    except DXFAuthInsecureError as error:
        message = f"{parts.host} requires a password, which is never sent over a connection without encryption"
        raise RegistryAccessError(message, hint="give the registry a certificate") from error
    except DXFUnauthorizedError as error:
        message = f"{parts.host} refuses access to {parts}"
        raise RegistryAccessError(message, hint=log_in) from error
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (_UNAUTHORIZED, _FORBIDDEN):
            message = f"{parts.host} refuses access to {parts} (HTTP {status})"
            raise RegistryAccessError(message, hint=log_in) from error
        if status == _NOT_FOUND:
            message = f"the registry has no image {parts}"
            raise ImageUnavailableError(
                message, hint=f"check `reference` in docker/images.yaml, or {log_in}"
            ) from error
        hint = "wait some minutes, or " + log_in if status == _TOO_MANY else "try again later"
        message = f"{parts.host} answered HTTP {status} for {parts}"
        raise RegistryError(message, hint=hint) from error
    except (requests.RequestException, OSError) as error:
        message = f"the registry {parts.host} cannot be reached: {type(error).__name__}"
        raise RegistryError(message, hint="check the network") from error
    except (DXFError, ValueError, KeyError, TypeError) as error:
        message = f"{parts.host} gave an invalid answer for {parts}"
        raise RegistryError(message, hint="a proxy may have answered in its place") from error
