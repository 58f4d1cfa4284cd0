"""Records a build beside its journal: every event as a line of JSON, so that others can follow it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError, PlanRefusedError, by_code, machine_faults
from orchestrator.events import Event, Observer, Progress, from_record, silence, to_record
from orchestrator.store import owner
from orchestrator.store.temporary import replacing

_EVERY = 1.0
"""Seconds between two recorded progress events of one step."""
_POLL = 0.2


@dataclass(frozen=True)
class Ended:
    """How a build ended."""

    status: int
    """The exit status of its command."""
    code: str = ""
    message: str = ""
    hint: str = ""


def record_file(root: Path, recipe: str) -> Path:
    """Return the path of the record of a recipe's newest build."""
    return root / "runs" / f"{recipe}.events"


@contextmanager
def recorded(root: Path, recipe: str, observer: Observer) -> Iterator[Observer]:
    """Record what an observer receives while the block runs, and how the block ends.

    Args:
        root: The store's folder.
        recipe: The recipe that is built.
        observer: Gets every event as well.
    """
    file = record_file(root, recipe)
    with machine_faults("writing to the store"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as fresh:
            writer = _Writer(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o644), observer)
            writer.put({"event": "begun", "owner": owner.this_process(), "process": os.getpid()})
    try:
        with _ending_in(writer):
            yield writer
    finally:
        os.close(writer.descriptor)


@contextmanager
def written_to(descriptor: int) -> Iterator[Observer]:
    """Write the same lines to an open file, such as standard output."""
    with _ending_in(_Writer(descriptor, silence)) as writer:
        yield writer


@contextmanager
def _ending_in(writer: _Writer) -> Iterator[_Writer]:
    """Write how the block ends."""
    try:
        yield writer
    except OrchestratorError as error:
        writer.end(Ended(error.exit_status, error.code, error.message, error.hint))
        raise
    except KeyboardInterrupt as error:
        writer.end(Ended(130 if type(error) is KeyboardInterrupt else 143))
        raise
    except BaseException as error:
        writer.end(Ended(1, "DEFECT", type(error).__name__))
        raise
    else:
        writer.end(Ended(0))


@dataclass
class _Writer:
    descriptor: int
    observer: Observer
    last: float = 0.0

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Progress) or self._is_due():
            record = to_record(event)
            if record:
                self.put(record)
        self.observer(event)

    def end(self, ended: Ended) -> None:
        self.put({"event": "ended", **vars(ended)})

    def put(self, record: dict[str, Any]) -> None:
        with suppress(OSError):  # on a full disk, the build's own error matters more
            os.write(self.descriptor, (json.dumps(record) + "\n").encode())

    def _is_due(self) -> bool:
        now = time.monotonic()
        due = now - self.last >= _EVERY
        if due:
            self.last = now
        return due


@dataclass(frozen=True)
class Begun:
    """The build of the record."""

    process: int
    owner: str


def begun(root: Path, recipe: str) -> Begun | None:
    """Return whose record is the newest; None if there is none."""
    file = record_file(root, recipe)
    if file.parent != root / "runs":  # a path instead of a name on the command line
        return None
    try:
        with file.open(encoding="utf-8") as stream:
            fields = json.loads(stream.readline())
        return Begun(int(fields["process"]), str(fields["owner"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def follow(root: Path, recipe: str, whose: Begun) -> Iterator[Event | Ended]:
    """Yield recorded and new events until the build ends. A killed build leaves no `Ended`."""
    with record_file(root, recipe).open(encoding="utf-8") as stream:
        line = ""
        while True:
            alive = owner.is_running(whose.owner)  # checked before the file, so that its last lines are read
            while piece := stream.readline():
                line += piece
                if not line.endswith("\n"):
                    break
                found = read_line(line)
                line = ""
                if found:
                    yield found
                if isinstance(found, Ended):
                    return
            if not alive:
                return
            time.sleep(_POLL)


def read_line(line: str) -> Event | Ended | None:
    """Read a line of a record; None if it is none, or of an event that this version does not have."""
    try:
        record: dict[str, Any] = json.loads(line)
        if record.get("event") == "ended":
            return Ended(int(record["status"]), str(record["code"]), str(record["message"]), str(record["hint"]))
        return from_record(record)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def error_of(ended: Ended) -> OrchestratorError:
    """Return the error with which a build ended, by its code."""
    kind = by_code(ended.code)
    if kind is None or issubclass(kind, PlanRefusedError):
        kind = OrchestratorError
    return kind(ended.message, hint=ended.hint)
