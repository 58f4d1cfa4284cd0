"""The record of a build: what it says at each moment, who may write it, and what harm it survives."""

from __future__ import annotations

import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.app.record import Ended, Entry, Record, follow, recorded
from orchestrator.errors import DiskFullError
from orchestrator.events import (
    Event,
    Progress,
    StepDone,
    StepReached,
    StepReused,
    StepStopped,
    Warned,
    silence,
    to_record,
)

STEPS = ("a", "b", "c")
REACHED, DONE = StepReached("a", "f00d"), StepDone("a", "f00d", 1, 2, 3.5)
OLDER = {
    "recipe": "x",
    "process": 7,
    "started": 12.5,
    "finished": False,
    "owner": "0000-boot:7:7",
    "beyond": {"d": "beef"},
    "steps": [
        {"name": "a", "state": "done", "key": "f00d", "seconds": 3.5, "log": "/log.txt", "error": ""},
        {"name": "b", "state": "failed", "key": "cafe", "seconds": 1.0, "log": "", "error": "why"},
    ],
}


def read(root: Path) -> Record:
    found = Record.read(root, "x")
    assert found is not None
    return found


def write(root: Path, *events: Event) -> Path:
    with recorded(root, "x", STEPS, silence) as observer:
        for event in events:
            observer(event)
    return root / "runs" / "x.events"


def test_it_tells_what_its_events_say_while_they_come(tmp_path: Path) -> None:
    seen: list[Event] = []
    with recorded(tmp_path, "x", STEPS, seen.append) as observer:
        assert read(tmp_path).is_running
        observer(REACHED)
        assert read(tmp_path).steps == [Entry("a", "running", "f00d"), Entry("b"), Entry("c")]
        observer(DONE)
        observer(StepReached("b", "cafe"))
        observer(StepReused("b", "cafe", 1, 2, 0.5))
        observer(StepReached("c", "beef"))
        observer(StepStopped("c", "", 1.5, interrupted=True))
        found = read(tmp_path)
        assert found.is_running
    assert found.steps == [
        Entry("a", "done", "f00d", 3.5),
        Entry("b", "reused", "cafe", 0.5),
        Entry("c", "interrupted", "beef", 1.5),
    ]
    assert [type(event) for event in seen][-1] is StepStopped
    assert (read(tmp_path).finished, read(tmp_path).is_running) == (True, False)


def test_an_error_outside_of_a_step_is_that_of_the_build(tmp_path: Path) -> None:
    message, file = "no space", tmp_path / "runs" / "x.events"
    with pytest.raises(DiskFullError), recorded(tmp_path, "x", STEPS, silence):
        raise DiskFullError(message, hint="free some")
    found = read(tmp_path)
    assert (found.ended, found.error) == (Ended(DiskFullError.exit_status, "DISK_FULL", message, "free some"), message)
    lines = file.read_bytes().splitlines(keepends=True)
    stopped = json.dumps(to_record(StepStopped("a", message, 1.0, interrupted=False)))
    file.write_bytes(lines[0] + stopped.encode() + b"\n" + lines[1])
    assert read(tmp_path).error == "", "the step has it"


def test_results_of_earlier_builds_are_kept_until_the_step_is_reached(tmp_path: Path) -> None:
    write(tmp_path, REACHED, DONE, StepReached("b", "cafe"))
    with recorded(tmp_path, "x", ("a", "b"), silence) as observer:
        assert read(tmp_path).results == {"a": "f00d", "b": "cafe"}
        observer(StepReached("a", "0000"))
        assert read(tmp_path).results == {"a": "0000", "b": "cafe"}
    with recorded(tmp_path, "x", ("a",), silence):
        assert read(tmp_path).results == {"a": "0000", "b": "cafe"}, "b is beyond its last step"


def test_an_older_build_does_not_write_to_the_record_of_a_newer(tmp_path: Path) -> None:
    with recorded(tmp_path, "x", STEPS, silence) as older:
        older(REACHED)
        with recorded(tmp_path, "x", ("a",), silence) as newer:
            newer(StepReached("a", "beef"))
            older(DONE)
            assert read(tmp_path).steps == [Entry("a", "running", "beef")]
    found = read(tmp_path)
    assert found.ended == Ended(0)
    assert found.steps == [Entry("a", "running", "beef")]


def test_the_newest_build_is_the_one_that_began_last_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(tmp_path, "x", STEPS, silence):
        started = read(tmp_path).started
        monkeypatch.setattr("time.time", lambda: started - 300)
        write(tmp_path)
    assert read(tmp_path).started == started - 300


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"steps": [{}]}', '{"steps": 1}', "null", "\xff", '"x"'])
def test_a_file_that_cannot_be_read_is_none_and_is_named(tmp_path: Path, text: str | None) -> None:
    for name in ("x.events", "x.json"):
        (tmp_path / "runs").mkdir(exist_ok=True)
        if text is not None:
            (tmp_path / "runs" / name).write_text(text, encoding="latin-1")
            assert Record.unreadable(tmp_path) == (tmp_path / "runs" / name,)
        assert Record.read(tmp_path, "x") is None


def test_a_record_is_never_read_outside_its_folder(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "logs").mkdir()
    assert Record.read(tmp_path, "../runs/x") is None
    assert Record.recipes(tmp_path) == ("x",)


@pytest.mark.parametrize("cut", [1, 2, 30, 70])
def test_a_torn_last_line_is_not_read(tmp_path: Path, cut: int) -> None:
    file = write(tmp_path, REACHED, DONE)
    lines = file.read_bytes().splitlines(keepends=True)[:-1]
    file.write_bytes(b"".join(lines)[:-cut])
    (entry, *_), whole = read(tmp_path).steps, cut == 1
    assert entry.state == ("done" if whole else "running")


@pytest.mark.parametrize(
    "line", ["{", "[]", "\0\xff", '{"event": "new"}', "[" * 100_000, '{"event": "done", "step": 1}']
)
def test_lines_of_others_are_passed_over(tmp_path: Path, line: str) -> None:
    file = write(tmp_path, REACHED)
    begun, reached, *_ = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(begun + line.encode("latin-1") + b"\n" + reached)
    assert read(tmp_path).steps[0] == Entry("a", "running", "f00d")
    assert list(follow(replace(read(tmp_path), owner="0000-boot:1:1"))) == [REACHED]


def test_what_a_full_disk_cut_off_harms_no_later_line(tmp_path: Path) -> None:
    with recorded(tmp_path, "x", STEPS, silence) as observer:
        room = (tmp_path / "runs" / "x.events").stat().st_size + 20
        limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limit[1]))
        try:
            observer(REACHED)
            observer(REACHED)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, ignored)
        observer(DONE)
    assert (tmp_path / "runs" / "x.events").read_bytes().count(b"reached") == 1, "a part of it"
    assert read(tmp_path).steps[0] == Entry("a", "done", "f00d", 3.5)


def test_a_step_costs_one_line_however_many_there_are(tmp_path: Path) -> None:
    steps = [f"step-{number}" for number in range(1000)]
    with recorded(tmp_path, "x", steps, silence) as observer:
        file, sizes = tmp_path / "runs" / "x.events", []
        for name in (steps[10], steps[990]):
            sizes.append(-file.stat().st_size)
            observer(StepReached(name, "f00d"))
            sizes[-1] += file.stat().st_size
    assert sizes[1] == sizes[0] + 1, "its number has one digit more"


def test_progress_is_recorded_once_a_second(tmp_path: Path) -> None:
    file = write(tmp_path, *(Progress(number, 9, "layers") for number in range(9)), Warned("x"))
    found = [json.loads(line)["event"] for line in file.read_text().splitlines()]
    assert found == ["begun", "progress", "warned", "ended"]


def test_a_record_of_an_older_version_is_read_and_the_next_build_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    older, events = tmp_path / "runs" / "x.json", tmp_path / "runs" / "x.events"
    events.write_text(
        '{"event": "begun", "owner": "0000-boot:7:7", "process": 7}\n{"event": "warned", "message": "m"}\n'
    )
    assert (read(tmp_path).steps, read(tmp_path).process) == ([], 7), "it ended before its first step"
    older.write_text(json.dumps(OLDER))
    found = read(tmp_path)
    assert found.steps == [Entry("a", "done", "f00d", 3.5), Entry("b", "failed", "cafe", 1.0, "why")]
    assert (found.started, found.finished, found.is_running, found.process) == (12.5, False, False, 7)
    assert list(follow(found)) == [Warned("m")]
    assert Record.recipes(tmp_path) == ("x",)
    write(tmp_path, StepReached("a", "0000"))
    assert not older.exists()
    assert read(tmp_path).results == {"a": "0000", "b": "cafe", "d": "beef"}


def test_a_process_whose_number_was_given_to_another_is_over(tmp_path: Path) -> None:
    file = write(tmp_path, REACHED)
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    found = read(tmp_path)
    assert found.is_running
    boot, number, _ = found.owner.split(":")
    for gone in (f"{boot}:{number}:1", f"00000000-0000-0000-0000-000000000000:{number}:1", ""):
        found.owner = gone
        assert (found.is_running, found.state_of(found.steps[0])) == (False, "abandoned")
