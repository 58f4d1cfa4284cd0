"""Writes a partial download: flushed bytes are recorded in a journal, and all received bytes are hashed.

Two files are beside the future blob. `….incomplete` has the bytes. `….journal` says how many of them are flushed to
disk. Its first line names format and size. Each further line is an offset, appended after the bytes before it were
flushed. After a crash, nothing beyond the last complete line is trusted, because a file system may record a file's
length before its bytes. A digest's state cannot be saved, so a resumed download reads and hashes
the existing bytes once.

A second thread flushes bytes while more arrive. A chunk is half of what a crash may lose, because one chunk
may be arriving while another is being flushed.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrator.hub.stop import Stop

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK = 8 << 20
"""Bytes between two lines of the journal."""
_READ = 1 << 20
_HEADER = "orchestrator 1 {size}\n"


class Partial:
    """An incomplete file, open for writing by one process, which holds the blob's lock.

    Args:
        path: The file of the bytes.
        size: The expected size.
        digest: An empty digest. It gets every byte.
        stop: Checked while existing bytes are read again.
    """

    def __init__(self, path: Path, size: int, digest: _Hash, stop: Stop) -> None:
        self.path = path
        self.size = size
        self.digest = digest
        self.received = 0
        """Bytes that were received, hashed and written."""
        self._stop = stop
        self._journal = path.with_suffix(".journal")
        self._flushed = 0
        self._pending: Future[None] | None = None
        self._flusher = ThreadPoolExecutor(1)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._take_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record the progress, and close it."""
        try:
            with suppress(OSError):  # after a failure; on a full disk, less is kept
                self._settle()
                if self.received > self._flushed:
                    self._flush(self.received)
        finally:
            self.close()

    def write(self, piece: bytes | bytearray) -> None:
        """Append received bytes."""
        if self.received + len(piece) - self._flushed > 2 * CHUNK:
            self._settle()  # before the write: a crash must not find more unjournaled bytes
        self.digest.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self._file, view) :]
        self.received += len(piece)
        if self.received - self._flushed >= CHUNK and (self._pending is None or self._pending.done()):
            self._settle()
            self._pending = self._flusher.submit(self._flush, self.received)

    def finish(self, blob: Path) -> None:
        """Give the complete and verified file its final name, after it is flushed to disk."""
        self._settle()
        os.fdatasync(self._file)
        self.path.replace(blob)
        self._journal.unlink(missing_ok=True)
        folder = os.open(blob.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._flushed = self.received

    def move_aside(self, place: Path) -> None:
        """Rename the received bytes for inspection, and remove the journal."""
        self._settle()
        self.path.replace(place)
        self._journal.unlink(missing_ok=True)
        self._flushed = self.received

    def close(self) -> None:
        """Close the file."""
        self._flusher.shutdown()
        os.close(self._file)

    def _take_up(self) -> None:
        trusted = min(journaled(self.path, self.size), os.fstat(self._file).st_size)
        while self.received < trusted:
            self._stop.check()
            piece = os.read(self._file, min(_READ, trusted - self.received))
            self.digest.update(piece)
            self.received += len(piece)
        os.ftruncate(self._file, trusted)
        self._flushed = trusted
        fresh = self._journal.with_suffix(".journal.new")
        fresh.write_text(_HEADER.format(size=self.size) + (f"{trusted}\n" if trusted else ""), encoding="ascii")
        fresh.replace(self._journal)  # at once: a crash right here must not lose the existing bytes

    def _settle(self) -> None:
        """Wait for the running flush."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _flush(self, offset: int) -> None:
        os.fdatasync(self._file)
        with self._journal.open("a", encoding="ascii") as journal:
            journal.write(f"{offset}\n")
            journal.flush()
            os.fdatasync(journal.fileno())
        self._flushed = offset


def sweep_journal(path: Path) -> None:
    """Remove the journal of a complete file, left by a process that was killed right after the rename."""
    path.with_suffix(".journal").unlink(missing_ok=True)


def journaled(path: Path, size: int) -> int:
    """Return how many bytes of an incomplete file can be trusted; 0 if nothing is known."""
    try:
        text = path.with_suffix(".journal").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return 0
    header = _HEADER.format(size=size)
    if not text.startswith(header):
        return 0
    whole, _, _ = text.removeprefix(header).rpartition("\n")  # a line without its end was cut by a crash
    offset = 0
    for line in whole.splitlines():
        if not line.isdecimal() or not offset <= int(line) <= size:
            break
        offset = int(line)
    return offset


def digest_of(size: int, *, large: bool) -> _Hash:
    """Create the digest by which the Hub identifies a file: sha256 of a large one, git's sha1 of a small one."""
    return hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
