"""What is believed of a file that did not arrive whole, and how much a crash may cost."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from orchestrator.hub.partial import CHUNK, Partial, digest_of, journaled
from orchestrator.hub.stop import Stop, StoppedError

SIZE = 3 * CHUNK
PIECE = b"p" * (1 << 20)


def opened(folder: Path, stop: Stop | None = None) -> Partial:
    return Partial(folder / "x.incomplete", SIZE, digest_of(SIZE, large=True), stop or Stop())


def journal(folder: Path) -> Path:
    return folder / "x.journal"


def test_what_was_written_down_is_taken_up_with_its_digest(tmp_path: Path) -> None:
    with opened(tmp_path) as partial:
        partial.write(PIECE)
    with opened(tmp_path) as partial:
        assert partial.received == len(PIECE)
        partial.write(PIECE)
        assert partial.digest.hexdigest() == hashlib.sha256(PIECE * 2).hexdigest()


def test_never_more_than_two_chunks_are_not_yet_on_disk(tmp_path: Path) -> None:
    with opened(tmp_path) as partial:
        while partial.received < SIZE:
            partial.write(PIECE)
            assert partial.received - journaled(partial.path, SIZE) <= 2 * CHUNK


def test_a_finished_file_has_its_name_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    with opened(tmp_path) as partial:
        for _ in range(SIZE // len(PIECE)):
            partial.write(PIECE)
        partial.finish(tmp_path / "blob")
    assert [path.name for path in tmp_path.iterdir()] == ["blob"]
    assert (tmp_path / "blob").stat().st_size == SIZE


def test_a_file_that_is_moved_aside_leaves_nothing_where_it_was(tmp_path: Path) -> None:
    place = tmp_path / "aside"
    place.mkdir()
    with opened(tmp_path) as partial:
        partial.write(PIECE)
        partial.move_aside(place / "file")
    assert (place / "file").read_bytes() == PIECE
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        (f"orchestrator 1 {SIZE}\n", 0),
        (f"orchestrator 1 {SIZE}\n10\n20\n", 20),
        (f"orchestrator 1 {SIZE}\n10\n20", 10),
        (f"orchestrator 1 {SIZE}\n10\n5\n", 10),
        (f"orchestrator 1 {SIZE}\n10\n{SIZE + 1}\n", 10),
        (f"orchestrator 1 {SIZE}\n10\n-3\n", 10),
        (f"orchestrator 1 {SIZE + 1}\n10\n", 0),
        (f"orchestrator 2 {SIZE}\n10\n", 0),
    ],
)
def test_a_journal_is_believed_up_to_its_last_whole_and_sensible_line(tmp_path: Path, text: str, expected: int) -> None:
    journal(tmp_path).write_text(text)
    assert journaled(tmp_path / "x.incomplete", SIZE) == expected


def test_of_a_terabyte_that_is_half_there_little_is_written_down_and_all_of_it_believed(tmp_path: Path) -> None:
    size = 10**12
    with (tmp_path / "x.incomplete").open("wb") as sparse:
        sparse.truncate(size)
    lines = (f"{offset}\n" for offset in range(CHUNK, size // 2 + 1, CHUNK))
    journal(tmp_path).write_text(f"orchestrator 1 {size}\n{''.join(lines)}")
    assert journaled(tmp_path / "x.incomplete", size) == size // 2 // CHUNK * CHUNK
    assert journal(tmp_path).stat().st_size < 1 << 20
    stop = Stop()
    stop.set()  # what is there would be hashed for minutes; how far it is, is known before
    with pytest.raises(StoppedError):
        Partial(tmp_path / "x.incomplete", size, digest_of(size, large=True), stop)
    assert journaled(tmp_path / "x.incomplete", size) == size // 2 // CHUNK * CHUNK, "stopped, it is where it was"


def test_a_long_look_at_what_is_there_can_be_stopped(tmp_path: Path) -> None:
    with opened(tmp_path) as partial:
        partial.write(PIECE)
    stop = Stop()
    stop.set()
    with pytest.raises(StoppedError):
        opened(tmp_path, stop)
    with opened(tmp_path) as partial:
        assert partial.received == len(PIECE)


def test_a_small_file_is_known_by_gits_digest() -> None:
    digest = digest_of(6, large=False)
    digest.update(b"hello\n")
    assert digest.hexdigest() == "ce013625030ba8dba906f756967f9e9ca394464a"  # echo hello | git hash-object --stdin
