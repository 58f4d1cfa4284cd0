"""Provides an image for the right processor: local, pulled with progress, or built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docker.errors import ImageNotFound

from orchestrator.errors import ImageUnavailableError, WrongArchitectureError
from orchestrator.events import LogLine, Progress
from orchestrator.executors.docker_client import (
    DOCKER_ERRORS,
    explain,
    explained,
    images_folder,
    require_architecture,
)
from orchestrator.store.space import Need

_UNPACKED = 2
"""Factor between an image's layers on disk and in the registry. Docker keeps both for a while."""

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from docker import DockerClient
    from orchestrator.events import Observer
    from orchestrator.executors.job import ContainerImage, ImageBuild

    Message = Mapping[str, Any]
    """One decoded line of Docker's answer to a pull or a build."""


def ensure(client: DockerClient, image: ContainerImage, observer: Observer) -> None:
    """Make sure that Docker has the image.

    Raises:
        ImageUnavailableError: It cannot be pulled or built.
        WrongArchitectureError: It, or Docker, is for another processor than the target's.
    """
    require_architecture(client, image.architecture)
    if _is_local(client, image):
        return
    if image.build is None:
        _pull(client, image, observer)
    else:
        _build(client, image.reference, image.build, observer)
    if not _is_local(client, image):
        message = f"{image.reference}: Docker reported success, but does not have the image"
        raise ImageUnavailableError(message)


def check_local(client: DockerClient, image: ContainerImage) -> None:
    """Check the image if Docker has it already.

    Raises:
        WrongArchitectureError: It, or Docker, is for another processor than the target's.
    """
    require_architecture(client, image.architecture)
    _is_local(client, image)


def needs(client: DockerClient, image: ContainerImage) -> tuple[Need, ...]:
    """Return the disk space of a pull: the download and its unpacked copy; nothing if the size is not known."""
    pulled = image.build.base if image.build else image.reference
    if image.pulled is None or _has(client, image.reference) or _has(client, pulled):
        return ()
    folder = images_folder(client)
    if folder is None:
        return ()
    size = image.pulled * (1 + _UNPACKED)
    return (Need(folder, size, f"image {pulled.partition('@')[0]}: to pull and unpack, as predicted"),)


def _has(client: DockerClient, reference: str) -> bool:
    with explained(f"looking for image {reference}"):
        try:
            client.images.get(reference)
        except ImageNotFound:
            return False
    return True


def _is_local(client: DockerClient, image: ContainerImage) -> bool:
    try:
        found = client.images.get(image.reference).attrs["Architecture"]
    except ImageNotFound:
        return False
    except DOCKER_ERRORS as error:
        raise explain(error, f"looking for image {image.reference}") from error
    if found != image.architecture:
        message = f"{image.reference}: the image is built for {found}, the target is {image.architecture}"
        raise WrongArchitectureError(message, hint=_architecture_hint(image))
    return True


def _architecture_hint(image: ContainerImage) -> str:
    replace = (
        "run the build again" if image.build else f"docker pull --platform linux/{image.architecture} {image.reference}"
    )
    return f"docker image rm {image.reference} && {replace}"


class PullProgress:
    """Adds up the layers of a pull."""

    def __init__(self, reference: str) -> None:
        self._note = f"pull {reference}"
        self._layers: dict[str, tuple[int, int]] = {}
        self._last = (0, 0)

    def take(self, message: Message) -> Progress | None:
        """Take one message of Docker; return an event if something has changed."""
        layer, status = message.get("id", ""), message.get("status", "")
        detail = message.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._layers[layer] = (detail["current"], detail["total"])
        elif status in ("Verifying Checksum", "Download complete") and layer in self._layers:
            self._layers[layer] = (self._layers[layer][1],) * 2
        done, total = (sum(column) for column in zip((0, 0), *self._layers.values(), strict=True))
        if (done, total) == self._last:
            return None
        self._last = (done, total)
        return Progress(done, total, "bytes", self._note)


def _pull(client: DockerClient, image: ContainerImage, observer: Observer) -> None:
    progress, failure = PullProgress(image.reference), ""
    try:
        for message in client.api.pull(
            image.reference, stream=True, decode=True, platform=f"linux/{image.architecture}"
        ):
            failure = failure or message.get("error", "")  # an answer that is read to its end closes its connection
            if (event := progress.take(message)) is not None:
                observer(event)
    except DOCKER_ERRORS as error:
        failure = str(getattr(error, "explanation", None) or error)
    _refuse_pull(image, failure)


def _refuse_pull(image: ContainerImage, reason: str) -> None:
    if not reason:
        return
    message = f"{image.reference}: cannot be pulled: {reason}"
    if "no matching manifest" in reason or "does not match the specified platform" in reason:
        raise WrongArchitectureError(message, hint=f"choose an image that is published for {image.architecture}")
    if "no space left on device" in reason:
        raise explain(ImageUnavailableError(reason), f"pulling {image.reference}")
    raise ImageUnavailableError(message, hint=_pull_hint(image.reference, reason.lower()))


def _pull_hint(reference: str, reason: str) -> str:
    registry = reference.partition("/")[0]
    if any(word in reason for word in ("denied", "unauthorized", "authentication")):
        if registry == "nvcr.io":
            return "docker login nvcr.io   (user: $oauthtoken, password: an API key of https://ngc.nvidia.com)"
        return f"docker login {registry}" if "." in registry else "docker login"
    if any(word in reason for word in ("not found", "unknown", "does not exist")):
        return f"check the name and the digest: docker manifest inspect {reference}"
    return f"check the network, then: docker pull {reference}"


def _build(client: DockerClient, reference: str, build: ImageBuild, observer: Observer) -> None:
    with explained(f"building {reference}"):
        messages: Iterable[Message] = client.api.build(
            path=str(build.context),
            dockerfile=str(build.dockerfile.resolve()),
            buildargs={"BASE": build.base, **build.arguments},
            tag=reference,
            rm=True,
            forcerm=True,
            decode=True,
        )
        follow_build(
            messages, f"{reference}: cannot be built from {build.dockerfile}", f"docker pull {build.base}", observer
        )


def follow_build(messages: Iterable[Message], failed: str, hint: str, observer: Observer) -> None:
    """Forward Docker's messages of a build.

    Args:
        messages: From Docker's API.
        failed: Begins the error message. Docker's reason follows.
        hint: The error's hint.
        observer: Gets every line.

    Raises:
        ImageUnavailableError: Docker reports an error.
    """
    failure = ""
    for message in messages:  # read to its end, which closes the connection
        failure = failure or message.get("error", "")
        for line in message.get("stream", "").splitlines():
            observer(LogLine(line))
    if failure:
        reason = f"{failed}: {failure}"
        raise ImageUnavailableError(reason, hint=hint)
