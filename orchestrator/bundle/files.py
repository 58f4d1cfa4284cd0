"""Writes a bundle's folder: links files from the store, lists digests, and replaces the old folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from orchestrator.errors import FileNameError
from orchestrator.store.artifact import StoredFile
from orchestrator.store.store import remove_tree

_FICLONE = 0x40049409
"""linux/fs.h: share the blocks of another file, if the file system can."""
SUMS = "SHA256SUMS"
"""The list of digests in a bundle, for `sha256sum --check`."""
SIGNATURE = "model.sig"
"""The signature of a bundle."""
INSTALL = "install.sh"
"""What installs an archive."""
SUMS_SIGNATURE = f"{SUMS}.sig"
"""The signature of an archive's list of digests, which openssl checks."""
INSTALLED = ".installed"
"""What `install.sh` installed, for the archive after it."""
IMAGES = "images"
"""The folder of an archive's images."""
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})


def link_files(source_folder: Path, files: Iterable[StoredFile], folder: Path, copying: Callable[[], None]) -> None:
    """Put files into a folder: by hard link, else with shared blocks, else by copy.

    Args:
        source_folder: Their folder.
        files: The files.
        folder: The destination.
        copying: Called once before anything is copied.
    """
    reported = False
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
                if not reported:
                    copying()
                    reported = True
                shutil.copyfile(source, target)


def _share_blocks(source: Path, target: Path) -> bool:
    with source.open("rb") as original, target.open("wb") as clone:
        try:
            fcntl.ioctl(clone, _FICLONE, original.fileno())
        except OSError:
            return False
    return True


def are_unchanged(source_folder: Path, files: Iterable[StoredFile], folder: Path, not_after: int) -> bool:
    """Tell whether files of a folder are unchanged.

    Args:
        source_folder: Their source.
        files: The files.
        folder: The destination.
        not_after: A copy whose status changed after this moment (nanoseconds) is not trusted.
    """
    for file in files:
        try:
            status = (folder / file.path).stat()
            source = (source_folder / file.path).stat()
        except OSError:
            return False
        linked = (status.st_dev, status.st_ino) == (source.st_dev, source.st_ino)
        if not linked and (status.st_size != file.size or status.st_ctime_ns > not_after):
            return False
    return True


def temporary_sibling(path: Path) -> Path:
    """Name a new folder beside a path, for its replacement."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"


def remove_temporary_siblings(path: Path) -> None:
    """Remove what a killed orchestrator left beside a path. The caller holds its lock."""
    for folder in path.parent.glob(".*"):
        if re.fullmatch(re.escape(f".{path.name}.") + "[0-9a-f]{8}", folder.name):
            remove_tree(folder)


def replace_folder(path: Path, fresh: Path) -> None:
    """Move a new folder to a path. The old folder is removed afterwards."""
    old = temporary_sibling(path)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    if old.exists():
        remove_tree(old)


def keep_user_files(old: Path, fresh: Path, names: Iterable[str]) -> None:
    """Copy the user's files to a folder that will replace theirs. Files of the new folder have priority.

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


def text_digest(text: str) -> str:
    """Calculate the SHA-256 of a text file."""
    return hashlib.sha256(text.encode()).hexdigest()


def sums_text(digests: Mapping[str, str]) -> str:
    """Write a list of digests by path, as `sha256sum` does.

    Raises:
        FileNameError: A name would break the list, or the terminal of its reader.
    """
    for name in digests:
        if not name.isprintable():  # a lone surrogate is not
            message = f"the file name {name!r} has a character that cannot be printed, so {SUMS} cannot list it"
            raise FileNameError(message, hint="rename the file, or leave it out")
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def read_sums(folder: Path) -> dict[str, str]:
    """Read the digests by path; none if the list is missing."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
