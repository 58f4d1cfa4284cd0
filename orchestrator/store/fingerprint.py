"""Calculates a file's fingerprint from its file status. An equal fingerprint means equal bytes."""

from __future__ import annotations

from pathlib import Path


def fingerprint_of(path: Path) -> str:
    """Return device, inode, size and times. The time of the last status change cannot be set back."""
    status = path.stat()
    values = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, values))
