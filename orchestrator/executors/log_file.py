"""Writes a log file of bounded size: the beginning, and the newest part of the rest.

The beginning and the end of a command explain what happened. A command that writes 100 MB/s must not fill the disk with
the middle.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

LARGEST = 256 << 20
"""Most bytes of a log."""
_PIECE = 1 << 20
"""Bytes per write or move."""


class LogFile:
    """A log that is written from its beginning. Each write reaches the file at once.

    Args:
        path: The file.
        largest: Most bytes of the file: a quarter for its beginning, at least another for its end.
    """

    def __init__(self, path: Path, largest: int = LARGEST) -> None:
        self._head = self._tail = largest // 4
        self._largest = largest
        self._piece = min(_PIECE, largest // 4)
        self._left_out = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._size = 0

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def write(self, text: bytes) -> None:
        """Append, and cut a part of the middle if the file would be too large."""
        for start in range(0, len(text), self._piece):
            piece = text[start : start + self._piece]
            if self._size + len(piece) > self._largest:
                self._leave_out()
            self._put(piece)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _leave_out(self) -> None:
        tail = self._size - self._tail
        self._left_out += tail - self._head
        note = b"\n[about %d MB are left out here]\n" % (self._left_out // 10**6)
        end, self._size = self._size, self._head
        self._put(note)
        for start in range(tail, end, self._piece):
            self._put(os.pread(self._file, min(self._piece, end - start), start))
        os.ftruncate(self._file, self._size)

    def _put(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            count = os.pwrite(self._file, view, self._size)
            view = view[count:]
            self._size += count
