"""Calculates digests of a container's or image's content, so that only changed ones are created again."""

from __future__ import annotations

import hashlib
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from docker.utils import exclude_paths

from orchestrator.bundle.files import read_sums
from orchestrator.store.fingerprint import sha256_of

_READ = 16 << 20
"""Largest file in bytes that is read. A larger file's digest is taken from SHA256SUMS."""
_PIECE = 1 << 20


def mount_digest(source: Path) -> str:
    """Calculate the digest of a mount: this folder and its list of files, whose content is not read.

    A bundle that was written again is another folder, even if its files are the same: a running container
    would see the old, emptied one.
    """
    digest = hashlib.sha256()
    for path in (source, *sorted(source.rglob("*"))) if source.is_dir() else (source,):
        status = path.stat()
        digest.update(f"{path.relative_to(source)}\0{status.st_ino}\0".encode(errors="surrogateescape"))
        if not path.is_dir():
            digest.update(f"{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def context_digest(folder: Path, dockerfile: str) -> str:
    """Calculate the digest of an image's build context: the content of all that `.dockerignore` includes."""
    sums = read_sums(folder)
    digest = hashlib.sha256()
    for file in _context(folder, dockerfile):
        name = file.relative_to(folder).as_posix()
        known = sums.get(name) if file.stat().st_size > _READ else None
        digest.update(f"{name}\0{known or sha256_of(file)}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def stream_context(folder: Path, dockerfile: str) -> Iterator[bytes]:
    """Yield the same files as a tar archive, piece by piece, because a model is too large for a copy."""
    for file in _context(folder, dockerfile):
        status = file.stat()
        # without owner and time, so that layers are reproducible
        entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
        entry.size, entry.mode = status.st_size, 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE):
                yield piece
        yield bytes(-status.st_size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _context(folder: Path, dockerfile: str) -> list[Path]:
    ignore = folder / ".dockerignore"
    lines = ignore.read_text("utf-8").splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    names = exclude_paths(str(folder), patterns, dockerfile=dockerfile)
    return [folder / name for name in sorted(names) if (folder / name).is_file()]
