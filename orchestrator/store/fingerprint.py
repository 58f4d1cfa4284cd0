"""Identifies a file's bytes: quickly by its file status, or by sha256."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

_PIECE = 1 << 20
"""Bytes per read."""


def fingerprint_of(path: Path) -> str:
    """Return device, inode, size and times. An equal fingerprint means equal bytes: the ctime cannot be set back."""
    status = path.stat()
    values = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, values))


def sha256_of(path: Path, ended: threading.Event | None = None) -> str:
    """Hash a file.

    Args:
        path: The file.
        ended: Checked after each read. If it is set, the rest is not read, and the digest is worthless.
    """
    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as stream:
        while (count := stream.readinto(piece)) and not (ended and ended.is_set()):
            digest.update(piece[:count])
    return digest.hexdigest()
