"""Defines the events of a build as values. The command line decides how they look.

A payload runs in another process or container and has only its standard output. It writes events as lines
that begin with a marker. `to_line` and `from_line` are the two ends of that channel. Every other line is log.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any, Protocol

from orchestrator.values import frozen

_MARKER = "@orchestrator "


@frozen
class Progress:
    """The progress of the running step."""

    done: int
    total: int
    """0 if it is not known."""
    unit: str
    """`bytes`, `tensors`, `layers`, `requests`, …"""
    note: str = ""
    """A description of the current work."""
    part: str = ""
    """One of several files that are processed at once."""
    part_done: int = 0
    """The progress of that part, in the same unit."""
    part_total: int = 0


@frozen
class Failure:
    """The error of a payload that gives up, by its code."""

    code: str
    message: str
    hint: str = ""


@frozen
class Checked:
    """A download has hashed and verified a file while it was in memory."""

    path: str
    """Below the output folder."""
    sha256: str
    fingerprint: str
    """The file's fingerprint afterwards. The digest counts only while the fingerprint is the same."""


@frozen
class Spent:
    """The cost of a payload's work, reported at its end. It differs from run to run."""

    seconds: dict[str, float]
    """Seconds by phase. Overlapping phases each count fully."""
    bytes_read: int
    bytes_written: int
    peak_memory: int
    """Bytes of the process's private memory."""
    peak_device_memory: int
    """Bytes of a GPU; 0 without one."""
    threads: int
    device: str
    """`cpu`, or a GPU's name."""


@frozen
class LogLine:
    """One line that the step's command wrote."""

    text: str


@frozen
class StepReached:
    """A build comes to a step. It looks for the result, and runs the step if there is none."""

    step: str
    key: str


@frozen
class StepStarted:
    """A step begins to run."""

    step: str
    executor: str
    adopted: bool = False
    """Its container was already running and was adopted."""


@frozen
class MemoryUsed:
    """The memory of the machine that runs a step, all that is in use on it."""

    step: str
    seconds: float
    """Since the step's command began."""
    used: int
    """Bytes, the highest since the last such event."""
    limit: int
    """Bytes: at more the step is stopped, or all that the machine has."""


@frozen
class Publishing:
    """A step's command succeeded. Its result is hashed and put into the store."""

    step: str
    found: bool = False
    """An earlier build reached this point."""


@frozen
class StepReused:
    """A step's artifact was already in the store."""

    step: str
    key: str
    bytes_in: int
    bytes_out: int
    seconds: float


@frozen
class StepDone:
    """A step ran, its outputs were checked and published."""

    step: str
    key: str
    bytes_in: int
    bytes_out: int
    seconds: float


@frozen
class StepStopped:
    """A step failed or was interrupted, and the build ends."""

    step: str
    message: str
    seconds: float
    interrupted: bool


@frozen
class Waiting:
    """Another build holds a key that this one needs."""

    step: str
    reason: str


@frozen
class Warned:
    """A message for the user that does not end the build."""

    message: str


Event = (
    Progress
    | Failure
    | Checked
    | Spent
    | LogLine
    | StepReached
    | StepStarted
    | MemoryUsed
    | Publishing
    | StepReused
    | StepDone
    | StepStopped
    | Waiting
    | Warned
)


class Observer(Protocol):
    """Receives events. It is called from one thread and must not raise."""

    def __call__(self, event: Event, /) -> None:
        """Take one event."""


def silence(event: Event) -> None:
    """Ignore every event: the default observer."""


PayloadEvent = Progress | Failure | Checked | Spent | Warned
"""The events of payloads."""

_CHANNEL: dict[str, type[PayloadEvent]] = {
    "progress": Progress,
    "failure": Failure,
    "checked": Checked,
    "spent": Spent,
    "warned": Warned,
}


def to_line(event: PayloadEvent) -> str:
    """Encode an event for a payload's standard output, without the line end."""
    name = next(name for name, kind in _CHANNEL.items() if isinstance(event, kind))
    return _MARKER + json.dumps({"event": name, **asdict(event)})  # in ASCII: a path may have bytes that are no text


def from_line(line: str) -> PayloadEvent | LogLine:
    """Decode a line of a payload's standard output. Any other line is log."""
    text = line.rstrip("\r\n")
    if not text.startswith(_MARKER):
        return LogLine(text)
    try:
        record: dict[str, Any] = json.loads(text.removeprefix(_MARKER))
        event = _CHANNEL[record.pop("event")](**record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return LogLine(text)
    return event if _is_typed(event) else LogLine(text)


_RECORDED: dict[str, type[Event]] = {
    **_CHANNEL,
    "reached": StepReached,
    "started": StepStarted,
    "memory": MemoryUsed,
    "publishing": Publishing,
    "reused": StepReused,
    "done": StepDone,
    "stopped": StepStopped,
    "waiting": Waiting,
}


def to_record(event: Event) -> dict[str, Any] | None:
    """Convert an event for a build's record; None for a line of log, which has a file of its own."""
    name = next((name for name, kind in _RECORDED.items() if isinstance(event, kind)), None)
    return {"event": name, **asdict(event)} if name else None


def from_record(record: dict[str, Any]) -> Event | None:
    """Read an event of a build's record; None for an event that this version does not have."""
    values = dict(record)
    kind = _RECORDED.get(str(values.pop("event", "")))
    try:
        event = kind(**values) if kind else None
    except TypeError:
        return None
    return event if event and _is_typed(event) else None


_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "bool": (bool,), "float": (int, float)}
_NUMBERS = "dict[str, float]"


def _is_typed(event: Event) -> bool:
    """Tell whether each field has its annotated type, because the line's writer may be in error."""
    return all(_is_of(str(field.type), getattr(event, field.name)) for field in fields(event))


def _is_of(kind: str, value: object) -> bool:
    if kind == _NUMBERS:
        return isinstance(value, dict) and all(_is_of("str", name) and _is_of("float", value[name]) for name in value)
    return isinstance(value, _TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
