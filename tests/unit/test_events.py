"""The two ends of the channel: what a payload writes is an event only where it is one in every field."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.events import (
    Event,
    Failure,
    LogLine,
    MemoryUsed,
    Progress,
    Publishing,
    Spent,
    StepDone,
    StepReused,
    StepStarted,
    Waiting,
    Warned,
    from_line,
    from_record,
    to_line,
    to_record,
)

MARKER = "@orchestrator "


SPENT = Spent({"read": 1.5, "encode": 2}, 10, 5, 71_000_000, 0, 2, "cpu")


@pytest.mark.parametrize("event", [Progress(1, 2, "bytes", "a"), Failure("CODE", "why", "do"), SPENT])
def test_an_event_arrives_as_it_was_sent(event: Progress | Failure | Spent) -> None:
    assert from_line(to_line(event) + "\n") == event


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "progress", "done": "1", "total": 2, "unit": "bytes"},
        {"event": "progress", "done": 1, "total": None, "unit": "bytes"},
        {"event": "progress", "done": 1.5, "total": 2, "unit": "bytes"},
        {"event": "progress", "done": True, "total": 2, "unit": "bytes"},
        {"event": "progress", "done": 1, "total": 2, "unit": ["bytes"]},
        {"event": "progress", "done": 1, "total": 2, "unit": "bytes", "note": {}},
        {"event": "progress", "done": 1, "total": 2},
        {"event": "progress", "done": 1, "total": 2, "unit": "bytes", "more": 1},
        {"event": "failure", "code": 7, "message": "why"},
        {"event": "failure", "code": "CODE", "message": None},
        {"event": "spent", **asdict(SPENT), "seconds": {"read": "1"}},
        {"event": "spent", **asdict(SPENT), "seconds": [1]},
        {"event": "spent", **asdict(SPENT), "threads": 1.5},
        {"event": ["progress"]},
        {"event": None},
        {},
        [],
        "progress",
        None,
    ],
)
def test_what_is_no_event_in_some_field_is_a_line_of_log(fields: Any) -> None:  # noqa: ANN401 - whatever JSON can say
    line = MARKER + json.dumps(fields)
    assert from_line(line) == LogLine(line)


@pytest.mark.parametrize("rest", ["", "{", "\0", "[" * 100_000, '{"event": "progress", "done": 1e999}'])
def test_what_cannot_be_read_is_a_line_of_log(rest: str) -> None:
    assert isinstance(from_line(MARKER + rest), LogLine)


@pytest.mark.parametrize(
    "event",
    [
        StepStarted("quantize", "docker", adopted=True),
        MemoryUsed("quantize", 1.5, 9_000_000_000, 128_000_000_000),
        Publishing("quantize"),
        StepReused("quantize", "a" * 64, 1, 2, 0.5),
        StepDone("quantize", "a" * 64, 1, 2, 3),
        Waiting("quantize", "another"),
        Warned("look"),
        Progress(1, 2, "bytes"),
        Failure("CODE", "why"),
    ],
)
def test_a_record_gives_back_what_was_recorded(event: Event) -> None:
    record = to_record(event)
    assert record is not None
    assert from_record(json.loads(json.dumps(record))) == event


def test_lines_of_log_are_not_recorded() -> None:
    assert to_record(LogLine("a line")) is None


@pytest.mark.parametrize("record", [{}, {"event": "new"}, {"event": "warned"}, {"event": "warned", "message": 1}])
def test_a_record_of_another_version_is_skipped(record: dict[str, Any]) -> None:
    assert from_record(record) is None
