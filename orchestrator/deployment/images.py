"""Provides the images of a deployment: built from the bundle, or pulled."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from docker.errors import ImageNotFound

from orchestrator.deployment.compose_file import Build, Service
from orchestrator.deployment.container import labels
from orchestrator.deployment.digests import context_digest, stream_context
from orchestrator.errors import ImageUnavailableError
from orchestrator.events import Observer
from orchestrator.executors import docker_images
from orchestrator.executors.docker_arguments import LABEL
from orchestrator.executors.docker_client import explained
from orchestrator.executors.job import ContainerImage
from orchestrator.values import frozen

if TYPE_CHECKING:
    from docker.models.images import Image

    from docker import DockerClient

CONTEXT = LABEL + "context"
"""The label with the digest of an image's build context."""
DOCKER_ID = LABEL + "engine"
"""The label with the id of the Docker that built an image, to recognize loaded ones."""


@frozen
class BuiltFrom:
    """An image and what it is built from."""

    service: Service
    folder: Path
    """The context of its build."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """More labels that it must have."""


def ensure(
    client: DockerClient, service: Service, folder: Path, observer: Observer, marks: Mapping[str, str] | None = None
) -> str:
    """Make sure that a service's image exists, built from the bundle's present files.

    Args:
        client: Docker.
        service: The service.
        folder: The context of its build.
        observer: Gets the progress.
        marks: More labels that a built image must have.

    Returns:
        The image's id.

    Raises:
        ImageUnavailableError: It cannot be pulled or built.
        WrongArchitectureError: It is for another processor than Docker's.
    """
    architecture = service.platform.rpartition("/")[2] if service.platform else architecture_of(client)
    if service.build is None:
        docker_images.ensure(client, ContainerImage(service.image, architecture), observer)
    elif not is_current(client, service.image, folder, service.build, marks):
        for base in service.build.args.values():
            docker_images.ensure(client, ContainerImage(base, architecture), observer)
        _build(client, BuiltFrom(service, folder, marks or {}), service.build, observer)
    found = find(client, service.image)
    if found is None:
        message = f"{service.image}: Docker reported success, but does not have the image"
        raise ImageUnavailableError(message)
    return found.id or ""


def find(client: DockerClient, reference: str) -> Image | None:
    """Find an image in Docker."""
    with explained(f"looking for image {reference}"), suppress(ImageNotFound):
        return client.images.get(reference)
    return None


def is_current(
    client: DockerClient, reference: str, folder: Path, build: Build, marks: Mapping[str, str] | None = None
) -> bool:
    """Tell whether Docker has an image that was built from exactly these files, and has these labels."""
    found = find(client, reference)
    wanted = {**(marks or {}), CONTEXT: build_digest(folder, build)}
    return found is not None and wanted.items() <= found.labels.items()


def built_here(client: DockerClient, labels: Mapping[str, str]) -> list[Image]:
    """Find the images that deployments with these labels built in this Docker."""
    filters = [f"{name}={value}" for name, value in {**labels, DOCKER_ID: _docker_id(client)}.items()]
    with explained("listing images"):
        return client.images.list(filters={"label": filters})


def _build(client: DockerClient, wanted: BuiltFrom, build: Build, observer: Observer) -> None:
    reference, folder = wanted.service.image, wanted.folder
    marks = {**labels(folder), **wanted.marks, CONTEXT: build_digest(folder, build), DOCKER_ID: _docker_id(client)}
    with explained(f"building {reference}"):
        messages = client.api.build(
            fileobj=cast("IO[bytes]", stream_context(folder, build.dockerfile)),  # requests sends any iterable
            custom_context=True,
            dockerfile=build.dockerfile,
            buildargs=dict(build.args),
            network_mode=build.network,
            labels=marks,
            tag=reference,
            rm=True,
            forcerm=True,
            decode=True,
        )
        failed = f"{reference}: cannot be built from {folder / build.dockerfile}"
        hint = f"docker build --file {folder / build.dockerfile} {folder}"
        docker_images.follow_build(messages, failed, hint, observer)


def build_digest(folder: Path, build: Build) -> str:
    """Calculate the digest of what an image is built from: its context and its arguments."""
    arguments = ",".join(f"{name}={value}" for name, value in sorted(build.args.items()))
    return f"{context_digest(folder, build.dockerfile)}:{arguments}"


def architecture_of(client: DockerClient) -> str:
    """Return the architecture of Docker's machine."""
    with explained("reading Docker's architecture"):
        return str(client.version()["Arch"])


def _docker_id(client: DockerClient) -> str:
    with explained("reading Docker's id"):
        return str(client.info()["ID"])
