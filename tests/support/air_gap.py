"""A small bundle, a Docker that has its images, and another machine that unpacks the archive of both and installs it.

The Docker that writes the archive is an object in memory; that of the other machine is a program of
`air_gap_programs`. An image is a line with its name and id, and zeros after that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from docker.errors import ImageNotFound

from docker import DockerClient
from orchestrator.bundle.files import sums_text
from orchestrator.bundle.private_files import is_private
from orchestrator.deployment import two_sparks
from orchestrator.deployment.archive import Archived, Sign, archive
from orchestrator.deployment.compose_file import read
from orchestrator.deployment.images import BuiltFrom
from orchestrator.deployment.observer import Done, Observer, Phase
from orchestrator.events import Event

NAME = "small"
SERVER, MONITOR = "small:1", "prom/monitor:2"
SECRET = "a secret of the machine that built it"
_PROGRAMS = Path(__file__).resolve().parent / "air_gap_programs"
_COMPOSE = """\
name: small
services:
  server: {image: "small:1", ports: ["127.0.0.1:8000:8000"]}
  monitor: {image: "prom/monitor:2", profiles: [monitoring]}
"""
_FILES = {
    "compose.yaml": _COMPOSE,
    "README.md": "# small\n",
    "model/config.json": "{}",
    "model/a shard.safetensors": "weights",
    "secrets/README": "keys go here\n",
    "secrets/api_keys": SECRET,
    ".env": f"KEY={SECRET}\n",
}


def _silence(event: Event | Phase | Done) -> None:
    """Observe nothing."""


def write_bundle(folder: Path, **files: str) -> Path:
    """Write a small bundle into a folder, with more files or others."""
    written = {**_FILES, **files}
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in written.items() if not is_private(name)}
    for name, text in {**written, "SHA256SUMS": sums_text(sums)}.items():
        (folder / NAME / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / NAME / name).write_text(text)
    return folder / NAME


@dataclass
class WritingDocker:
    """The Docker of the machine that writes the archive."""

    images: dict[str, str] = field(default_factory=lambda: {SERVER: "sha256:1", MONITOR: "sha256:2"})
    """The id of each image, by its name."""
    size: int = 1000
    """Bytes of each image."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of images that are built."""
    claimed: int | None = None
    """The size that it claims for each, if that is another."""

    def archive(
        self, bundle: Path, file: Path, *profiles: str, observer: Observer = _silence, sign: Sign | None = None
    ) -> Archived:
        """Write a bundle and its images into an archive."""
        if two_sparks.is_for_two(bundle):
            wanted = two_sparks.images_of(bundle)
        else:
            wanted = [BuiltFrom(service, bundle) for service in read(bundle, shell={}).chosen(profiles).values()]
        return archive(self._client(), bundle, wanted, file, observer=observer, sign=sign)

    def _client(self) -> DockerClient:
        api = SimpleNamespace(get_image=self._stream, tag=self._tag, timeout=60, base_url="tcp://elsewhere")
        client = SimpleNamespace(api=api, images=SimpleNamespace(get=self._get), version=lambda: {"Arch": "arm64"})
        return cast("DockerClient", client)

    def _get(self, name: str) -> SimpleNamespace:
        if name not in self.images:
            raise ImageNotFound(name)
        attributes = {"Architecture": "arm64", "Size": self.size if self.claimed is None else self.claimed}
        return SimpleNamespace(id=self.images[name], attrs=attributes, labels=self.labels.get(name, {}))

    def _tag(self, image: str, repository: str, tag: str) -> None:
        self.images[f"{repository}:{tag}"] = image

    def _stream(self, name: str) -> Iterator[bytes]:
        head = f"{name} {self.images[name]}\n".encode()
        yield head
        yield bytes(self.size - len(head))


class OtherMachine:
    """The machine without a network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a folder with spaces"
        self.docker = folder / "docker"
        self.programs = folder / "programs"
        for place in (self.folder, self.docker, self.programs):
            place.mkdir()
        (self.docker / "architecture").write_text("arm64\n")
        shutil.copy(_PROGRAMS / "docker", self.programs)

    @property
    def bundle(self) -> Path:
        """The unpacked bundle."""
        return self.folder / NAME

    @property
    def images(self) -> dict[str, str]:
        """The images that its Docker has."""
        root = self.docker / "images"
        return {
            file.relative_to(root).as_posix(): file.read_text().strip() for file in root.rglob("*") if file.is_file()
        }

    @property
    def files(self) -> set[str]:
        """The files of the bundle, as they are there now."""
        return {file.relative_to(self.bundle).as_posix() for file in self.bundle.rglob("*") if not file.is_dir()}

    def give(self, program: str, text: str) -> None:
        """Put a program before all others of its name."""
        (self.programs / program).write_text(text)
        (self.programs / program).chmod(0o755)

    def unpack(self, file: Path) -> int:
        """Unpack an archive as the documentation says; return the exit status."""
        return subprocess.run(
            ("tar", "--extract", "--file", file), cwd=self.folder, capture_output=True, check=False
        ).returncode

    def install(self, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run install.sh.

        Args:
            arguments: Its arguments.
            path: The folders of its programs after its own; None: this machine's.
        """
        return self.run("bash", f"{NAME}/install.sh", *arguments, path=path)

    def run(self, *command: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command with few variables, as a service manager does, and without any network if root runs it."""
        environment = {"PATH": f"{self.programs}:{path or os.environ['PATH']}", "DOCKER_STANDIN": str(self.docker)}
        alone = ("unshare", "--net") if os.getuid() == 0 else ()
        return subprocess.run(
            (*alone, *command), cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
