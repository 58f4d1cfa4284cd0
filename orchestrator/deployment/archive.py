"""Writes a bundle with its images into one tar archive, for a machine without network, as a stream in one pass.

Docker sends images as a stream of unknown length, but tar needs a length before the bytes. So they are split into
parts, which `install.sh` joins again. Nothing is written twice, and at most one part is in memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.bundle.files import SUMS, read_sums, sums_text
from orchestrator.bundle.private_files import shareable
from orchestrator.deployment import images
from orchestrator.deployment.compose_file import ComposeFile
from orchestrator.deployment.observer import Done, Observer, Phase
from orchestrator.errors import ArtifactCorruptError, DiskFullError, ImageUnavailableError, machine_faults
from orchestrator.events import Progress
from orchestrator.executors.docker_client import explained, long_timeout

if TYPE_CHECKING:
    from docker import DockerClient

INSTALL = "install.sh"
_MODEL = "model/"
_IMAGES = "images/"
_PART = 16 << 20
_COPY = 1 << 20
_EVERY = 256 << 20
"""Bytes between two progress events."""
_SPARE = 1.01
"""Size that tar adds, for any bundle."""


@dataclass(frozen=True)
class Archived:
    """A finished archive."""

    file: Path
    size: int
    images: tuple[str, ...]


def archive(
    client: DockerClient,
    folder: Path,
    compose: ComposeFile,
    file: Path,
    *,
    profiles: tuple[str, ...],
    observer: Observer,
) -> Archived:
    """Write a bundle, its images and what installs them into one archive.

    Args:
        client: The Docker that has the images, or builds and pulls them.
        folder: The bundle.
        compose: Its compose.yaml.
        file: The archive. An older one is replaced when the new one is complete.
        profiles: The profiles to include.
        observer: Gets the progress.

    Raises:
        DiskFullError: The disk has no space for the archive. Nothing was written.
        ArtifactCorruptError: A file of the model has changed since the build.
        MachineError: Docker has no image and cannot get it.
    """
    services = compose.chosen(profiles)
    for service in services.values():
        images.ensure(client, service, folder, observer)
    names = tuple(dict.fromkeys(service.image for service in services.values()))
    contents = list(_contents(folder))
    image_bytes = sum(_size(client, name) for name in names)
    total = sum(size for _, size in contents) + image_bytes
    _require_space(file, total)
    observer(Phase("archive", f"{total / 1e9:.1f} GB to {file}; unpacking takes as much again"))
    script = _install_script(folder.name, names, images.architecture_of(client), image_bytes)
    partial = file.with_name(f".{file.name}.part")
    with machine_faults(f"writing {file}"):
        try:
            with partial.open("wb") as stream:
                _Writer(stream, folder, total, observer).write_all(script, contents, _parts(client, names))
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    size = file.stat().st_size
    observer(Done("archive", f"{file} has {size / 1e9:.1f} GB"))
    return Archived(file, size, names)


class _Writer:
    """Writes an archive, with the digest of every file at its end."""

    def __init__(self, stream: IO[bytes], folder: Path, total: int, observer: Observer) -> None:
        self._stream = stream
        self._folder = folder
        self._total = total
        self._observer = observer
        self._sums: dict[str, str] = {}
        self._done = self._reported = 0

    def write_all(self, script: str, contents: Iterable[tuple[str, int]], parts: Iterable[tuple[str, bytes]]) -> None:
        with tarfile.TarFile(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_COPY) as archive:
            self._add_bytes(archive, INSTALL, script.encode(), 0o755)
            known = read_sums(self._folder)
            for name, _ in contents:
                self._add_file(archive, name, known.get(name))
            for name, part in parts:
                self._add_bytes(archive, name, part)
            self._add_bytes(archive, SUMS, sums_text(self._sums).encode())

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
    for name in shareable(folder):
        if name != INSTALL and not name.startswith(_IMAGES):
            yield name, (folder / name).stat().st_size


def _parts(client: DockerClient, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield each image as `docker save` writes it, in pieces with their names in the archive."""
    for index, name in enumerate(names):
        with explained(f"reading image {name}"), long_timeout(client):
            for number, piece in enumerate(_in_pieces(client.api.get_image(name))):
                yield f"{_IMAGES}{index}/{number:05}.part", piece


def _in_pieces(stream: Iterable[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for chunk in stream:
        buffer += chunk
        while len(buffer) >= _PART:
            yield bytes(buffer[:_PART])
            del buffer[:_PART]
    yield bytes(buffer)


def _size(client: DockerClient, name: str) -> int:
    found = images.find(client, name)
    if found is None:
        message = f"{name}: Docker no longer has the image"
        raise ImageUnavailableError(message)
    return int(found.attrs["Size"])


def _require_space(file: Path, total: int) -> None:
    with machine_faults(f"writing {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(file.parent).free
    if free < total * _SPARE:
        message = f"the archive needs {total / 1e9:.1f} GB, and {file.parent} has {free / 1e9:.1f} GB free"
        raise DiskFullError(message, hint="name a file on a larger disk: --air-gap /path/to/FILE.tar")


def _install_script(name: str, image_names: tuple[str, ...], architecture: str, image_bytes: int) -> str:
    environment = Environment(
        loader=PackageLoader("orchestrator.deployment"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        comment_start_string="<#",  # {# is the length of an array there
        comment_end_string="#>",
        autoescape=False,  # noqa: S701 - a shell script; values are quoted for the shell
    )
    environment.filters["quote"] = shlex.quote
    return environment.get_template(f"{INSTALL}.j2").render(
        name=name, images=image_names, architecture=architecture, image_bytes=image_bytes
    )
