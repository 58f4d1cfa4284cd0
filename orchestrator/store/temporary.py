"""Writes files beside the file that they replace, and removes those of killed writers."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import FileSystemError
from orchestrator.store import owner

_NAME = re.compile(r"\..*\.(?P<owner>[^.]*:\d+:\d*)-[0-9a-f]{8}")


def temporary_of(path: Path) -> Path:
    """Name a new file beside another, with this process in its name."""
    return path.with_name(f".{path.name}.{owner.this_process()}-{uuid.uuid4().hex[:8]}")


def require_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of a device, a pipe or a folder, such as `/dev/null`.

    Raises:
        FileSystemError: Something else than a file has this name.
    """
    if path.exists() and not path.is_file():
        message = f"{path} is no file that could be replaced"
        raise FileSystemError(message, hint="name another file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new file that replaces another after the block. If the block fails, nothing changes.

    Raises:
        FileSystemError: Something else than a file has this name.
    """
    require_replaceable(path)
    temporary = temporary_of(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporaries(folder: Path) -> None:
    """Remove files of processes that have ended. Only this machine may write to the folder."""
    for file in folder.glob(".*"):
        found = _NAME.fullmatch(file.name)
        if found and not owner.is_running(found["owner"]):
            file.unlink(missing_ok=True)
