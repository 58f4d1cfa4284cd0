"""Finds and follows the logs of a build's steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.app.record import Entry, Record
from orchestrator.app.runner import failed_log
from orchestrator.errors import StepUnknownError
from orchestrator.store.store import Store
from orchestrator.values import frozen

_POLL = 0.3
_NEWEST = 4096
"""Bytes at the end of a truncated log from which the reader continues."""


@frozen
class StepLogs:
    """The logs of the newest build of a recipe."""

    store: Store
    recipe: str

    @property
    def record(self) -> Record | None:
        """The newest build, read again at each use; None if there is none."""
        return Record.read(self.store.root, self.recipe)

    def lines(self, entry: Entry, *, follow: bool) -> Iterator[bytes]:
        """Yield the lines of a step's log; with `follow`, also new lines while the step runs."""
        file = self._file(entry)
        while file is None and follow and self._runs(entry.name):
            time.sleep(_POLL)
            entry = self._entry(entry.name) or entry
            file = self._file(entry)
        if file is not None:
            yield from lines_of(file, lambda: follow and self._runs(entry.name))

    def next_step(self, entry: Entry) -> Entry | None:
        """Wait for the step after this one; None if the build ends first."""
        while record := self.record:
            names = [other.name for other in record.steps]
            later = record.steps[names.index(entry.name) + 1 :] if entry.name in names else []
            found = next((other for other in later if other.state != "waiting"), None)
            if found or not later or not record.is_running:
                return found
            time.sleep(_POLL)
        return None

    def _entry(self, step: str) -> Entry | None:
        record = self.record
        return next((entry for entry in record.steps if entry.name == step), None) if record else None

    def _runs(self, step: str) -> bool:
        record, entry = self.record, self._entry(step)
        return bool(record and record.alive and entry and entry.state == "running")

    def _file(self, entry: Entry) -> Path | None:
        """Find a step's log: with its artifact, in its running attempt, or kept after a failure."""
        if entry.has_result:
            places = [self.store.log(entry.key)]
        elif entry.state == "running":
            places = [folder / "log.txt" for folder in self.store.attempts(entry.key)]
        else:
            places = [failed_log(self.store.root, self.recipe, entry.name)]
        return next((place for place in places if place.is_file()), None)


def chosen_step(record: Record, step: str | None) -> Entry:
    """Return a step of a build; the step that ran last, if none is named.

    Raises:
        StepUnknownError: The build has no such step.
    """
    if step is None:
        touched = [entry for entry in record.steps if entry.state != "waiting"]
        return touched[-1] if touched else record.steps[0]
    for entry in record.steps:
        if entry.name == step:
            return entry
    message = f"{record.recipe} has no step `{step}`"
    raise StepUnknownError(message, hint=f"its steps are: {', '.join(entry.name for entry in record.steps)}")


def lines_of(file: Path, is_written: Callable[[], bool], poll: float = _POLL) -> Iterator[bytes]:
    """Yield the lines of a log, and new lines while it is written.

    Args:
        file: The log.
        is_written: Whether more lines may come.
        poll: Seconds between two checks.
    """
    with file.open("rb") as stream:
        line = b""
        while True:
            running = is_written()  # checked before the file, so that its last lines are read
            size = os.fstat(stream.fileno()).st_size
            if stream.tell() > size:  # it grew too large, and its middle was cut
                stream.seek(max(0, size - _NEWEST))
                line = b""
            for piece in stream:
                line += piece
                if line.endswith(b"\n"):
                    yield line
                    line = b""
            if not running:
                if line:
                    yield line
                return
            time.sleep(poll)
