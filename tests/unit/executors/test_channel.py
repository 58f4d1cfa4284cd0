from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import DiskFullError
from orchestrator.events import Event, LogLine, silence
from orchestrator.executors.channel import LONGEST_LINE, Channel, Lines, Redactor, log_path


def cut(*chunks: bytes) -> list[str]:
    lines = Lines()
    return [line for chunk in chunks for line in lines.take(chunk)] + list(lines.end())


def blot(secrets: list[str], *chunks: bytes) -> bytes:
    blot = Redactor(secrets)
    return b"".join(blot.take(chunk) for chunk in chunks) + blot.end()


def test_a_line_may_come_in_pieces() -> None:
    assert cut(b"o", b"ne\ntw", b"o\n") == ["one", "two"]


def test_the_last_line_needs_no_end() -> None:
    assert cut(b"one\ntwo") == ["one", "two"]


def test_empty_lines_are_kept() -> None:
    assert cut(b"one\n\ntwo\n") == ["one", "", "two"]


def test_a_carriage_return_ends_a_line_and_a_line_feed_after_it_does_not_end_another() -> None:
    assert cut(b"10%\r20%\r\nafter\n") == ["10%", "20%", "after"]


def test_a_carriage_return_and_its_line_feed_may_come_apart() -> None:
    assert cut(b"20%\r", b"\nafter\n") == ["20%", "after"]
    assert cut(b"20%\r", b"", b"\nafter\n") == ["20%", "after"]


def test_a_character_may_come_in_pieces() -> None:
    assert cut("ü".encode()[:1], "ü".encode()[1:]) == ["ü"]


def test_bytes_that_are_no_text_become_marks() -> None:
    assert cut(b"a\xffb\n") == ["a\ufffdb"]


def test_a_long_line_is_cut_and_says_by_how_much() -> None:
    first, second = cut(b"x" * LONGEST_LINE, b"x" * 100, b"\nafter\n")
    assert first == "x" * LONGEST_LINE + " … [100 more bytes in the log]"
    assert second == "after"


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_where_a_stream_is_cut_does_not_change_its_lines(stream: bytes, places: list[int]) -> None:
    edges = [0, *sorted(places), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert cut(*chunks) == cut(stream)


def test_a_secret_is_replaced_also_where_it_is_spread_over_chunks() -> None:
    assert blot(["hf_secret"], b"token hf_se", b"cr", b"et end") == b"token [secret] end"


def test_what_only_begins_like_a_secret_is_kept() -> None:
    assert blot(["hf_secret"], b"hf_se", b"lf, hf_sec") == b"hf_self, hf_sec"


def test_of_two_secrets_the_longer_is_replaced_whole() -> None:
    assert blot(["abc", "abcdef"], b"x abcdef abc x") == b"x [secret] [secret] x"


def test_an_empty_secret_replaces_nothing() -> None:
    assert blot([""], b"text") == b"text"


@given(st.text("ab", max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_no_cut_of_the_stream_lets_a_secret_through(text: str, places: list[int]) -> None:
    stream = text.encode()
    edges = [0, *sorted(places), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert blot(["abba"], *chunks) == stream.replace(b"abba", b"[secret]")


def test_the_log_is_kept_beside_the_output_and_never_in_it(tmp_path: Path) -> None:
    assert log_path(tmp_path / "out") == tmp_path / "log.txt"


def test_everything_that_was_written_is_in_the_log(tmp_path: Path) -> None:
    events: list[Event] = []

    def see(event: Event) -> None:
        events.append(event)

    channel = Channel(tmp_path / "out", see, ["hf_secret"])
    channel.take(b"one\ntwo hf_sec")
    channel.take(b"ret")
    channel.close()
    assert events == [LogLine("one"), LogLine("two [secret]")]
    assert (tmp_path / "log.txt").read_bytes() == b"one\ntwo [secret]"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    channel = Channel(tmp_path / "out", silence)
    with pytest.raises(DiskFullError, match=r"writing .*log\.txt"):
        channel.take(b"one\n")
    channel.close()
