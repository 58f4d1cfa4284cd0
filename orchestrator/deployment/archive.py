"""Writes a bundle with its images into one tar archive, for a machine without network, as a stream in one pass.

Docker sends images as a stream of unknown length, but tar needs a length before the bytes. So they are split into
parts, which `install.sh` joins again. Nothing is written twice, and at most one part is in memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.bundle.files import (
    IMAGES,
    INSTALL,
    INSTALLED,
    SIGNATURE,
    SUMS,
    SUMS_SIGNATURE,
    read_sums,
    sums_text,
)
from orchestrator.bundle.private_files import PRIVATE, shareable
from orchestrator.bundle.targets.two_sparks import FOLDER as TWO_SPARKS
from orchestrator.deployment import images, two_sparks
from orchestrator.deployment.compose_file import image_variables, read
from orchestrator.deployment.observer import Done, Observer, Phase
from orchestrator.errors import ArtifactCorruptError, ImageUnavailableError, machine_faults
from orchestrator.events import Progress
from orchestrator.executors.docker_client import explained, images_folder, long_timeout
from orchestrator.store.space import Need, require_space
from orchestrator.store.temporary import require_replaceable
from orchestrator.units import in_bytes
from orchestrator.values import frozen

if TYPE_CHECKING:
    from docker import DockerClient

_MODEL = "model/"
_UNLISTED = (*PRIVATE, SUMS, SUMS_SIGNATURE, INSTALLED)
"""Files on the other machine that no list has: the user's, and the lists themselves."""
_PART = 16 << 20
_COPY = 1 << 20
_EVERY = 256 << 20
"""Bytes between two progress events."""
_ADDED_BY_TAR = 0.01
"""Share of a bundle's size, for any bundle."""


Sign = Callable[[bytes], bytes]
"""Signs a list of digests so that openssl can check it."""


@frozen
class ArchivedImage:
    """An image of an archive."""

    name: str
    """Without a digest: Docker knows none of an image that it loads. The archive's own digests take its place."""
    id: str
    """Of the Docker that wrote it. If another Docker has it under this id, it need not be loaded."""
    size: int


@frozen
class Archived:
    """A finished archive."""

    file: Path
    size: int
    images: tuple[str, ...]
    sums_digest: str
    """The SHA-256 of the list of digests. If it is carried apart from the archive, it proves the archive."""


def archive(
    client: DockerClient,
    folder: Path,
    wanted: Sequence[images.BuiltFrom],
    file: Path,
    *,
    observer: Observer,
    sign: Sign | None = None,
) -> Archived:
    """Write a bundle, its images and what installs them into one archive.

    Args:
        client: The Docker that has the images, or builds and pulls them.
        folder: The bundle.
        wanted: Its images.
        file: The archive. An older one is replaced when the new one is complete.
        observer: Gets the progress.
        sign: Signs the archive's list of digests; None: it is not signed.

    Raises:
        DiskFullError: A disk has no space for the archive, or for the images on their way. Nothing was written.
        ArtifactCorruptError: A file of the model has changed since the build.
        MachineError: Docker has no image and cannot get it.
        FileSystemError: The archive's name is that of a device, a pipe or a folder.
    """
    require_replaceable(file)
    for one in wanted:
        images.ensure(client, one.service, one.folder, observer, one.marks)
    found = [_image(client, name) for name in dict.fromkeys(one.service.image for one in wanted)]
    settings = tuple(_image_settings(folder, [one.service.image for one in wanted]))
    contents = list(_contents(folder))
    total = sum(size for _, size in contents) + sum(image.size for image in found)
    with machine_faults(f"writing {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        require_space(_needs(client, file, total, found), "name a file on a larger disk: --air-gap /path/to/FILE.tar")
    observer(Phase("archive", f"{in_bytes(total)} to {file}"))
    script = _install_script(folder, found, settings, images.architecture_of(client))
    partial = file.with_name(f".{file.name}.part")
    with machine_faults(f"writing {file}"):
        try:
            with partial.open("wb") as stream:
                writer = _Writer(stream, folder, total, observer, sign)
                digest = writer.write_all(script, contents, _parts(client, found))
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    size = file.stat().st_size
    observer(Done("archive", f"{file} has {in_bytes(size)}; {_space_elsewhere(size, found)}"))
    return Archived(file, size, tuple(image.name for image in found), digest)


def _needs(client: DockerClient, file: Path, total: int, found: Sequence[ArchivedImage]) -> Iterator[Need]:
    """List what is written on this machine: the archive, and an image in Docker's temporary folder."""
    yield Need(file.parent, int(total * (1 + _ADDED_BY_TAR)), f"the archive {file.name}")
    if docker := images_folder(client):
        yield Need(
            docker, max(image.size for image in found), "the largest image, which Docker writes before it sends it"
        )


def _space_elsewhere(size: int, found: Sequence[ArchivedImage]) -> str:
    """Tell how much space the other machine needs: `docker load` unpacks an image into a temporary folder first."""
    sizes = [image.size for image in found]
    unpacked, loaded = in_bytes(size), in_bytes(sum(sizes) + max(sizes))
    return f"the other machine needs {unpacked} for its files, and {loaded} on Docker's disk to load the images"


class _Writer:
    """Writes an archive, with the digest of every file at its end."""

    def __init__(self, stream: IO[bytes], folder: Path, total: int, observer: Observer, sign: Sign | None) -> None:
        self._stream = stream
        self._folder = folder
        self._total = total
        self._observer = observer
        self._sign = sign
        self._sums: dict[str, str] = {}
        self._done = self._reported = 0

    def write_all(self, script: str, contents: Iterable[tuple[str, int]], parts: Iterable[tuple[str, bytes]]) -> str:
        """Write everything.

        Returns:
            The SHA-256 of the list of digests.
        """
        with tarfile.TarFile(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_COPY) as archive:
            self._add_bytes(archive, INSTALL, script.encode(), 0o755)
            known = read_sums(self._folder)
            for name, _ in contents:
                self._add_file(archive, name, known.get(name))
            for name, part in parts:
                self._add_bytes(archive, name, part)
            sums = sums_text(self._sums).encode()
            if self._sign:
                self._add_bytes(archive, SUMS_SIGNATURE, self._sign(sums))
            self._add_bytes(archive, SUMS, sums)
        return self._sums[SUMS]

    def _add_bytes(self, archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
        entry = self._entry(name, len(content), mode)
        self._sums[name] = hashlib.sha256(content).hexdigest()
        archive.addfile(entry, io.BytesIO(content))
        self._report(name, len(content))

    def _add_file(self, archive: tarfile.TarFile, name: str, known: str | None) -> None:
        file = self._folder / name
        with file.open("rb") as source:
            status = os.fstat(source.fileno())
            reader = _Hashing(source, lambda count: self._report(name, count))
            archive.addfile(self._entry(name, status.st_size, 0o755 if status.st_mode & 0o100 else 0o644), reader)
        self._sums[name] = reader.digest
        if name.startswith(_MODEL) and known not in {None, reader.digest}:
            message = f"{file} has changed since the build: its SHA-256 is {reader.digest}, and {SUMS} has {known}"
            raise ArtifactCorruptError(message, hint=f"write the bundle again: orchestrator build {self._folder.name}")

    def _entry(self, name: str, size: int, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(f"{self._folder.name}/{name}")
        entry.size, entry.mode = size, mode
        return entry

    def _report(self, name: str, count: int) -> None:
        self._done += count
        if self._done - self._reported >= _EVERY:
            self._reported = self._done
            self._observer(Progress(self._done, self._total, "bytes", f"archive: {name}"))


class _Hashing(io.RawIOBase):
    """Forwards bytes and hashes them."""

    def __init__(self, source: IO[bytes], report: Callable[[int], None]) -> None:
        super().__init__()
        self._source = source
        self._report = report
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes so far."""
        return self._hash.hexdigest()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        piece = self._source.read(size)
        self._hash.update(piece)
        self._report(len(piece))
        return piece


def _contents(folder: Path) -> Iterator[tuple[str, int]]:
    """List the files of a bundle that may leave this machine, with their sizes, without another archive's own files."""
    for name in (SIGNATURE, *shareable(folder)):
        if name != INSTALL and not name.startswith(f"{IMAGES}/") and (folder / name).is_file():
            yield name, (folder / name).stat().st_size


def _parts(client: DockerClient, found: Sequence[ArchivedImage]) -> Iterator[tuple[str, bytes]]:
    """Yield each image as `docker save` writes it, in pieces with their names in the archive."""
    for index, image in enumerate(found):
        with explained(f"reading image {image.name}"), long_timeout(client):
            for number, piece in enumerate(_in_pieces(client.api.get_image(image.name))):
                yield f"{IMAGES}/{index}/{number:05}.part", piece


def _in_pieces(stream: Iterable[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for chunk in stream:
        buffer += chunk
        while len(buffer) >= _PART:
            yield bytes(buffer[:_PART])
            del buffer[:_PART]
    yield bytes(buffer)


def _image(client: DockerClient, name: str) -> ArchivedImage:
    found = images.find(client, name)
    if found is None:
        message = f"{name}: Docker no longer has the image"
        raise ImageUnavailableError(message)
    tagged = _without_digest(name)
    if tagged != name:
        with explained(f"naming image {tagged}"):
            client.api.tag(str(found.id), *_repository_and_tag(tagged))
    return ArchivedImage(tagged, str(found.id), int(found.attrs["Size"]))


def _without_digest(name: str) -> str:
    """Leave the digest of a name out. What has no tag either gets one from the digest."""
    tagged, _, digest = name.partition("@")
    if not digest or _repository_and_tag(tagged)[1]:
        return tagged
    return f"{tagged}:{digest.rpartition(':')[2][:12]}"


def _repository_and_tag(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    repository, _, tag = last.partition(":")
    return f"{folder}{slash}{repository}", tag


def _image_settings(folder: Path, wanted: Sequence[str]) -> Iterator[str]:
    """List the lines of `.env` by which the other machine's Compose finds images under their names there."""
    if two_sparks.is_for_two(folder):
        return
    services = read(folder).services
    for name, (variable, default) in image_variables(folder).items():
        image = services[name].image
        if image in wanted and _without_digest(image) != default:
            yield f"{variable}={_without_digest(image)}"


def _install_script(folder: Path, found: Sequence[ArchivedImage], settings: Sequence[str], architecture: str) -> str:
    environment = Environment(
        loader=PackageLoader("orchestrator.deployment"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        comment_start_string="<#",  # {# is the length of an array there
        comment_end_string="#>",
        autoescape=False,  # noqa: S701 - a shell script; values are quoted for the shell
    )
    environment.filters["quote"] = shlex.quote
    not_listed = "|".join(one.replace(".", "[.]") + "(/.*)?" for one in _UNLISTED)
    return environment.get_template(f"{INSTALL}.j2").render(
        name=folder.name,
        images=found,
        settings=settings,
        architecture=architecture,
        not_listed=not_listed,
        two_sparks=TWO_SPARKS if two_sparks.is_for_two(folder) else None,
    )
