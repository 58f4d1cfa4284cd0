"""The record of each recipe's newest build, which `status`, `logs`, `attach`, `gc` and the pages read.

`runs/<recipe>.events` in the store has lines of JSON, each with the key `event`. The first is `begun`, with the
process, the steps and the results of earlier builds. Every event of the build follows (`events.to_record`), and `ended`
is the last. What is known of a step is what its events say. A line is written once, by one call that appends it, so a
killed build leaves whole lines, except perhaps the last. Readers skip lines that they do not know. A build puts a new
file in the place of the old one. An older build that still runs goes on writing to the file that it has open.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.errors import OrchestratorError, PlanRefusedError, by_code, machine_faults
from orchestrator.events import (
    Event,
    Observer,
    Progress,
    StepDone,
    StepReached,
    StepReused,
    StepStopped,
    from_record,
    silence,
    to_record,
)
from orchestrator.store import owner
from orchestrator.store.temporary import replacing
from orchestrator.values import frozen

State = Literal["waiting", "running", "done", "reused", "failed", "interrupted"]
_EVERY = 1.0
"""Seconds between two recorded progress events of one step."""
_POLL = 0.2
_NOW, _OLDER = ".events", ".json"
_MANY = b'{"event": "progress"'
"""How the lines begin that change no step. A long build has many, so `read` leaves them out."""


@dataclass
class Entry:
    """One step of the newest build."""

    name: str
    state: State = "waiting"
    key: str = ""
    """Of its result; empty until the build reaches it."""
    seconds: float = 0.0
    error: str = ""

    @property
    def has_result(self) -> bool:
        """Whether the store has its result."""
        return self.state in ("done", "reused")


@frozen
class Ended:
    """How a build ended."""

    status: int
    """The exit status of its command."""
    code: str = ""
    message: str = ""
    hint: str = ""


@dataclass
class Record:
    """The newest build of one recipe."""

    file: Path
    recipe: str
    process: int
    owner: str
    """The process, in a form that no later process has."""
    started: float = 0.0
    """Seconds since the epoch, only for display."""
    steps: list[Entry] = field(default_factory=list)
    beyond: dict[str, str] = field(default_factory=dict)
    """Results of earlier builds, by step. They are kept until the build reaches the step."""
    ended: Ended | None = None

    @classmethod
    def read(cls, root: Path, recipe: str) -> Record | None:
        """Read a recipe's newest build; None if there is none, or its file is damaged."""
        file = _file(root, recipe)
        if file.parent != root / "runs":  # a path instead of a name on the command line
            return None
        try:
            if file.suffix == _OLDER:
                return _read_older(file)
            with file.open("rb") as stream:
                record = _begun(file, stream.readline())
                entries = {entry.name: entry for entry in record.steps}
                for line in stream:
                    event = None if line.startswith(_MANY) else read_line(line)
                    if isinstance(event, Ended):
                        record.ended = event
                    elif entry := entries.get(getattr(event, "step", "")):
                        _note(entry, event)
                return record
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    @classmethod
    def recipes(cls, root: Path) -> tuple[str, ...]:
        """List every recipe that has a build here."""
        return tuple(sorted({file.stem for suffix in (_NOW, _OLDER) for file in (root / "runs").glob(f"*{suffix}")}))

    @classmethod
    def unreadable(cls, root: Path) -> tuple[Path, ...]:
        """List the files of builds that cannot be read."""
        return tuple(_file(root, name) for name in cls.recipes(root) if cls.read(root, name) is None)

    @property
    def results(self) -> dict[str, str]:
        """The key of each step's result, of this build or, where it has not come so far, of earlier ones."""
        return {**self.beyond, **{entry.name: entry.key for entry in self.steps if entry.key}}

    @property
    def finished(self) -> bool:
        """Whether the build succeeded."""
        return self.ended is not None and self.ended.status == 0

    @property
    def error(self) -> str:
        """The error with which the build ended outside of a step; empty if there is none."""
        return self.ended.message if self.ended and not any(entry.error for entry in self.steps) else ""

    @property
    def alive(self) -> bool:
        """Whether the process that wrote it still runs."""
        return bool(self.owner) and owner.is_running(self.owner)

    @property
    def is_running(self) -> bool:
        """Whether the build continues."""
        return self.ended is None and self.alive

    def state_of(self, entry: Entry) -> str:
        """Tell a step that runs from one whose orchestrator ended, which is `abandoned`."""
        return "abandoned" if entry.state == "running" and not self.alive else entry.state


def _note(entry: Entry, event: Event | None) -> None:
    """Note what an event says of its step."""
    match event:
        case StepReached():
            entry.state, entry.key = "running", event.key
        case StepReused() | StepDone():
            entry.state = "reused" if isinstance(event, StepReused) else "done"
            entry.key, entry.seconds = event.key, event.seconds
        case StepStopped():
            entry.state = "interrupted" if event.interrupted else "failed"
            entry.error, entry.seconds = event.message, event.seconds
        case _:
            pass


def _begun(file: Path, line: bytes) -> Record:
    """Read the first line."""
    fields = json.loads(line)
    steps = [Entry(str(name)) for name in fields.get("steps", ())]  # older versions named none here
    started, beyond = float(fields.get("started", 0)), dict(fields.get("beyond", {}))
    return Record(file, file.stem, int(fields["process"]), str(fields["owner"]), started, steps, beyond)


def _read_older(file: Path) -> Record:
    """Read the file that versions up to 28 November 2026 kept besides the events. The next build removes it."""
    fields = json.loads(file.read_bytes())
    steps = [Entry(**{name: entry[name] for name in vars(Entry("")) if name in entry}) for entry in fields["steps"]]
    is_over = fields["finished"] or any(entry.state in ("failed", "interrupted") for entry in steps)
    record = Record(file.with_suffix(_NOW), file.stem, fields["process"], fields.get("owner", ""), fields["started"])
    record.steps, record.beyond = steps, fields.get("beyond", {})
    record.ended = Ended(int(not fields["finished"])) if is_over else None
    return record


def _file(root: Path, recipe: str) -> Path:
    """Return the path of a recipe's record. A file of an older version is newer: a build of this one removes it."""
    file = root / "runs" / f"{recipe}{_NOW}"
    older = file.with_suffix(_OLDER)
    return older if older.is_file() else file


@contextmanager
def recorded(root: Path, recipe: str, steps: Sequence[str], observer: Observer) -> Iterator[Observer]:
    """Record what an observer receives while the block runs, and how the block ends.

    Args:
        root: The store's folder.
        recipe: The recipe that is built.
        steps: The names of the steps that the build may reach, in their order.
        observer: Gets every event as well.
    """
    file, before = root / "runs" / f"{recipe}{_NOW}", Record.read(root, recipe)
    begun = {"process": os.getpid(), "owner": owner.this_process(), "started": time.time(), "steps": list(steps)}
    with machine_faults("writing to the store"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as fresh:
            writer = _Writer(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o644), observer)
            writer.put({"event": "begun", **begun, "beyond": before.results if before else {}})
        file.with_suffix(_OLDER).unlink(missing_ok=True)
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
    is_torn: bool = False
    """The last line is not whole, because the disk was full."""

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Progress) or self._is_due():
            self._put_quietly(to_record(event))
        self.observer(event)

    def end(self, ended: Ended) -> None:
        self._put_quietly({"event": "ended", **vars(ended)})

    def put(self, record: dict[str, Any]) -> None:
        """Append a line. NFS sends it to the server when a descriptor is closed, and that may be a copy."""
        line = ("\n" * self.is_torn + json.dumps(record) + "\n").encode()
        self.is_torn = True
        self.is_torn = os.write(self.descriptor, line) < len(line)
        os.close(os.dup(self.descriptor))

    def _put_quietly(self, record: dict[str, Any] | None) -> None:
        if record:
            with suppress(OSError):  # on a full disk, the build's own error matters more
                self.put(record)

    def _is_due(self) -> bool:
        now = time.monotonic()
        due = now - self.last >= _EVERY
        if due:
            self.last = now
        return due


def follow(record: Record) -> Iterator[Event | Ended]:
    """Yield recorded and new events until the build ends. A killed build leaves no `Ended`."""
    with record.file.open("rb") as stream:
        line = b""
        while True:
            alive = record.alive  # checked before the file, so that its last lines are read
            while piece := stream.readline():
                line += piece
                if not line.endswith(b"\n"):
                    break
                found = read_line(line)
                line = b""
                if found:
                    yield found
                if isinstance(found, Ended):
                    return
            if not alive:
                return
            time.sleep(_POLL)


def read_line(line: str | bytes) -> Event | Ended | None:
    """Read a line of a record; None if it is none, or of an event that this version does not have."""
    try:
        record: dict[str, Any] = json.loads(line)
        if record.get("event") == "ended":
            return Ended(int(record["status"]), str(record["code"]), str(record["message"]), str(record["hint"]))
        return from_record(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def error_of(ended: Ended) -> OrchestratorError:
    """Return the error with which a build ended, by its code."""
    kind = by_code(ended.code)
    if kind is None or issubclass(kind, PlanRefusedError):
        kind = OrchestratorError
    return kind(ended.message, hint=ended.hint)
