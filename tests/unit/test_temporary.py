from __future__ import annotations

from pathlib import Path

from orchestrator.temporary import sweep_temporaries, temporary_of

GONE = 2**22 + 1
"""No process has this number: the kernel's greatest is 2**22."""


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
