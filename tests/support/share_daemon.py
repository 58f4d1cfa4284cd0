"""Serves a folder by FUSE as a file system that caches names and attributes for seconds, as NFS does.

    python share_daemon.py FOLDER MOUNT SECONDS AHEAD shared|local

A name that was not there stays away for SECONDS, and so do a changed size and time of a file. Content is current when a
file is opened. The clock of the file system is AHEAD seconds ahead. Locks (`flock`) are shared by all mounts, as with
NFS 4, or known to one mount, as with `local_lock=flock`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mfusepy

_NANOSECONDS = 1_000_000_000
_TIMES = ("st_atime", "st_mtime", "st_ctime")
_ATTRIBUTES = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_blksize")


class Share(mfusepy.Operations):  # type: ignore[misc]
    """Hands each call on to the folder. Its methods are those of libfuse."""

    use_ns = True

    def __init__(self, folder: Path, ahead: int) -> None:
        self._folder = folder
        self._ahead = ahead * _NANOSECONDS

    def _at(self, path: str) -> Path:
        return self._folder / path[1:]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = self._at(path).lstat() if fh is None else os.fstat(fh)
        times = {name: getattr(found, f"{name}_ns") + self._ahead for name in _TIMES}
        return {name: getattr(found, name) for name in _ATTRIBUTES} | times

    def readdir(self, path: str, _fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        yield from ((name, {}, 0) for name in (".", ".."))
        for file in self._at(path).iterdir():
            found = file.lstat()
            yield file.name, {"st_mode": found.st_mode, "st_ino": found.st_ino}, 0

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags)

    def create(self, path: str, mode: int, flags: int) -> int:
        return os.open(self._at(path), flags | os.O_CREAT, mode)

    def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, _path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, _fh: int | None = None) -> int:
        os.truncate(self._at(path), length)
        return 0

    def release(self, _path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def fsync(self, _path: str, _datasync: int, fh: int) -> int:
        os.fsync(fh)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        accessed, modified = times or (None, None)
        if accessed is None or modified is None:
            os.utime(self._at(path), follow_symlinks=False)
        else:
            os.utime(self._at(path), ns=(accessed - self._ahead, modified - self._ahead), follow_symlinks=False)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

    def mkdir(self, path: str, mode: int) -> int:
        self._at(path).mkdir(mode)
        return 0

    def rmdir(self, path: str) -> int:
        self._at(path).rmdir()
        return 0

    def unlink(self, path: str) -> int:
        self._at(path).unlink()
        return 0

    def rename(self, old: str, new: str) -> int:
        self._at(old).rename(self._at(new))
        return 0

    def link(self, target: str, source: str) -> int:
        self._at(target).hardlink_to(self._at(source))
        return 0

    def symlink(self, target: str, source: str) -> int:
        self._at(target).symlink_to(source)
        return 0

    def readlink(self, path: str) -> str:
        return str(self._at(path).readlink())

    def chmod(self, path: str, mode: int) -> int:
        self._at(path).chmod(mode)
        return 0


class SharedLocks(Share):
    """Knows a lock in every mount."""

    def flock(self, _path: str, fh: int, how: int) -> int:
        try:
            fcntl.flock(fh, how)
        except BlockingIOError:
            return -errno.EWOULDBLOCK
        return 0


def main(folder: str, mount: str, seconds: str, ahead: str, locks: str) -> None:
    """Serve until the mount is removed."""
    served = (SharedLocks if locks == "shared" else Share)(Path(folder).resolve(), int(ahead))
    cached = dict.fromkeys(("entry_timeout", "negative_timeout", "attr_timeout"), float(seconds))
    mfusepy.FUSE(served, mount, foreground=True, use_ino=True, hard_remove=True, **cached)


if __name__ == "__main__":
    main(*sys.argv[1:])
