"""A log keeps its beginning and its end, and stays below its size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.executors.log_file import LogFile

LARGEST = 4000


def lines(count: int) -> list[bytes]:
    return [b"line %05d\n" % number for number in range(count)]


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_log_without_end_keeps_its_beginning_and_its_end(tmp_path: Path, at_once: int) -> None:
    file = tmp_path / "log.txt"
    written = lines(5000)
    with LogFile(file, LARGEST) as log:
        for start in range(0, len(written), at_once):
            log.write(b"".join(written[start : start + at_once]))
            assert file.stat().st_size <= LARGEST
    head, note, tail = re.split(rb"(\n\[about \d+ MB are left out here\]\n)", file.read_bytes())
    assert b"".join(written).startswith(head)
    assert b"".join(written).endswith(tail)
    assert min(len(head), len(tail)) >= LARGEST // 4 - len(note)


def test_a_log_within_its_size_is_whole(tmp_path: Path) -> None:
    written = b"".join(lines(LARGEST // 11))
    with LogFile(tmp_path / "log.txt", LARGEST) as log:
        log.write(written)
    assert (tmp_path / "log.txt").read_bytes() == written


def test_a_log_of_an_earlier_try_is_written_anew(tmp_path: Path) -> None:
    for text in (b"a longer text", b"short"):
        with LogFile(tmp_path / "log.txt") as log:
            log.write(text)
    assert (tmp_path / "log.txt").read_bytes() == b"short"
