"""Where reading a log goes on after the stream broke: after what was read, or what Docker still has."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.executors.docker_logs import GAP, LogPosition, Message


def message(moment: int, text: bytes = b"") -> Message:
    return Message(b"2026-01-01T00:00:%02d.000000000Z" % moment, text or b"%d\n" % moment)


def read(messages: Iterable[Message]) -> LogPosition:
    position = LogPosition()
    for each in messages:
        position.record(each)
    return position


def unread(position: LogPosition, messages: Iterable[Message]) -> list[bytes]:
    return [each.text for each in position.unread(iter(messages))]


def test_a_log_is_read_from_its_beginning() -> None:
    assert LogPosition().second is None
    assert unread(LogPosition(), [message(1), message(2)]) == [b"1\n", b"2\n"]


def test_what_was_read_is_not_read_again() -> None:
    messages = [message(number) for number in range(9)]
    position = read(messages[:5])
    assert position.second == 1767225600
    assert unread(position, messages) == [each.text for each in messages[5:]]


def test_messages_of_one_moment_are_told_apart_by_their_number() -> None:
    messages = [message(1, b"a"), message(1, b"b"), message(1, b"c")]
    assert unread(read(messages[:2]), messages) == [b"c"]


def test_messages_of_two_writers_may_be_out_of_order() -> None:
    messages = [message(1), message(3), message(2), message(4)]
    assert unread(read(messages[:2]), messages) == [b"2\n", b"4\n"]


def test_where_the_engine_has_dropped_what_was_read_and_more_it_is_said_once() -> None:
    position = read([message(1), message(2)])
    assert unread(position, [message(5), message(6)]) == [GAP, b"5\n", b"6\n"]


def test_nothing_is_missing_where_nothing_is_new() -> None:
    assert unread(read([message(1)]), []) == []


def test_messages_without_a_time_are_passed_on() -> None:
    assert unread(read([Message(b"", b"x")]), [Message(b"", b"y")]) == [b"y"]
