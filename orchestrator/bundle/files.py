"""Links a bundle's files from the store if the file system can, and replaces the bundle at once."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.store.artifact import StoredFile
from orchestrator.store.store import remove_tree

_FICLONE = 0x40049409
"""linux/fs.h: share the blocks of another file, if the file system can."""
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})


def link_files(source_folder: Path, files: Iterable[StoredFile], folder: Path, copying: Callable[[], None]) -> None:
    """Put files into a folder: by hard link, else with shared blocks, else by copy.

    Args:
        source_folder: Their folder.
        files: The files.
        folder: The destination.
        copying: Called once before anything is copied.
    """
    told = False
    for file in files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = source_folder / file.path
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            if not _share_blocks(source, target):
                if not told:
                    copying()
                    told = True
                shutil.copyfile(source, target)


def _share_blocks(source: Path, target: Path) -> bool:
    with source.open("rb") as there, target.open("wb") as here:
        try:
            fcntl.ioctl(here, _FICLONE, there.fileno())
        except OSError:
            return False
    return True


def is_linked_or_copied(source_folder: Path, files: Iterable[StoredFile], folder: Path, not_after: int) -> bool:
    """Tell whether files of a folder are unchanged.

    Args:
        source_folder: Their source.
        files: The files.
        folder: The destination.
        not_after: A copy whose status changed after this moment (nanoseconds) is not trusted.
    """
    for file in files:
        try:
            there = (folder / file.path).stat()
            here = (source_folder / file.path).stat()
        except OSError:
            return False
        linked = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
        if not linked and (there.st_size != file.size or there.st_ctime_ns > not_after):
            return False
    return True


def beside(place: Path) -> Path:
    """Name a new folder beside a path, for its replacement."""
    return place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}"


def sweep_beside(place: Path) -> None:
    """Remove what a killed orchestrator left beside a path. The caller holds its lock."""
    for folder in place.parent.glob(".*"):
        if re.fullmatch(re.escape(f".{place.name}.") + "[0-9a-f]{8}", folder.name):
            remove_tree(folder)


def swap_in(fresh: Path, place: Path) -> None:
    """Move a folder to a path. An existing folder is removed afterwards."""
    old = beside(place)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    if old.exists():
        remove_tree(old)


def carry_over(old: Path, fresh: Path, names: Iterable[str]) -> None:
    """Keep the user's files of a folder that will be replaced. Files of the new folder have priority.

    Args:
        old: The folder, which may be missing.
        fresh: Its replacement.
        names: Files and folders within it.
    """
    for name in names:
        for file in (old / name, *(old / name).rglob("*")):
            target = fresh / file.relative_to(old)
            if file.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)
