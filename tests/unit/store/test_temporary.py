from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.errors import FileSystemError
from orchestrator.store import owner
from orchestrator.store.temporary import replacing, sweep_temporaries, temporary_of

GONE = f"{owner.this_process().split(':')[0]}:{2**22 + 1}:1"
"""No process has this number: the largest one is 2**22."""


def test_what_a_gone_process_left_is_removed_and_the_rest_stays(tmp_path: Path) -> None:
    ours = temporary_of(tmp_path / "a.json")
    left = tmp_path / f".a.json.{GONE}-0123abcd"
    others = tmp_path / ".a.json.keep"
    for file in (ours, left, others, tmp_path / "a.json"):
        file.touch()
    sweep_temporaries(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, others, tmp_path / "a.json"])


def test_a_folder_that_is_not_there_has_nothing_to_remove(tmp_path: Path) -> None:
    sweep_temporaries(tmp_path / "nothing")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with replacing(file) as fresh:
        fresh.write_text("first")
    with suppress(OSError), replacing(file) as fresh:
        fresh.write_text("half of the sec")
        raise OSError
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_the_name_of_a_temporary_file_names_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "this_process", lambda: GONE)
    left = temporary_of(tmp_path / "a.json")
    assert left != temporary_of(tmp_path / "a.json")
    left.touch()
    sweep_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileSystemError), replacing(tmp_path / "pipe"):
        pytest.fail("it was written")
    assert (tmp_path / "pipe").is_fifo()
