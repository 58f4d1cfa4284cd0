"""Describes a step's result by content: its files with size and sha256, and one digest over them all."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ArtifactCorruptError, OutputMissingError
from orchestrator.store.fingerprint import fingerprint_of, sha256_of
from orchestrator.values import frozen

if TYPE_CHECKING:
    from orchestrator.events import Checked

_FORMAT = 1
_HASHERS = 4
"""hashlib releases the interpreter's lock, so threads hash files in parallel."""


@frozen
class StoredFile:
    """One file of an artifact."""

    path: str
    """Relative, with slashes."""
    size: int
    sha256: str


@frozen
class Artifact:
    """A published result. Its files never change."""

    key: str
    step: str
    folder: Path
    """The folder of its files."""
    log: Path
    """The log of its command."""
    files: tuple[StoredFile, ...]

    @property
    def manifest(self) -> Path:
        """Its manifest."""
        return self.folder.parent / "manifest.json"

    @property
    def digest(self) -> str:
        """Its identity by content. Artifacts with the same bytes are interchangeable."""
        listing = json.dumps([[file.path, file.size, file.sha256] for file in self.files])
        return hashlib.sha256(listing.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


def list_files(folder: Path) -> tuple[Path, ...]:
    """List every file below a folder, in the same order on every machine.

    Raises:
        OutputMissingError: There is a link or a special file. An artifact must not depend on files outside of it.
    """
    found: list[Path] = []
    for entry in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            message = f"the output {entry.relative_to(folder)} is a link or special file; outputs are plain files"
            raise OutputMissingError(message)
        if entry.is_file():
            found.append(entry)
    return tuple(found)


def hash_files(folder: Path, known: Mapping[str, Checked] = MappingProxyType({})) -> tuple[StoredFile, ...]:
    """Hash every file below a folder, several at once. An interrupt stops it at once.

    Args:
        folder: The folder.
        known: Already hashed files, by path. A file that changed since is hashed again.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - loads logging, which a plan does not need

    paths = list_files(folder)
    ended = threading.Event()

    def digest(path: Path) -> str:
        checked = known.get(path.relative_to(folder).as_posix())
        return checked.sha256 if checked and fingerprint_of(path) == checked.fingerprint else sha256_of(path, ended)

    with ThreadPoolExecutor(_HASHERS) as pool:
        try:
            digests = list(pool.map(digest, paths))
        finally:
            ended.set()
    return tuple(
        StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size, digest)
        for path, digest in zip(paths, digests, strict=True)
    )


def manifest_text(key: str, step: str, files: tuple[StoredFile, ...]) -> str:
    """Write an artifact's manifest."""
    fields = {"format": _FORMAT, "key": key, "step": step, "files": [asdict(file) for file in files]}
    return json.dumps(fields, indent=1) + "\n"


def read_manifest(folder: Path) -> Artifact:
    """Read an artifact's manifest.

    Raises:
        ArtifactCorruptError: It cannot be read.
    """
    try:
        fields: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = tuple(StoredFile(**file) for file in fields["files"])
        return Artifact(fields["key"], fields["step"], folder / "out", folder / "log.txt", files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{folder / 'manifest.json'} cannot be read: {error}"
        raise ArtifactCorruptError(message) from error
