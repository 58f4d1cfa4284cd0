"""What builds were told of branches, noted by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.app.commits import known_commits, remember_commit

COMMIT = "1" * 40


def test_builds_that_note_a_commit_at_once_lose_none(tmp_path: Path) -> None:
    repos = [f"owner/model-{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda repo: remember_commit(tmp_path, repo, "main", COMMIT), repos))
    assert known_commits(tmp_path) == {f"{repo}@main": COMMIT for repo in repos}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["commits.json", "locks"]


def test_a_branch_that_moved_has_its_newest_commit(tmp_path: Path) -> None:
    for commit in (COMMIT, "2" * 40):
        remember_commit(tmp_path, "owner/model", "main", commit)
    assert known_commits(tmp_path) == {"owner/model@main": "2" * 40}


@pytest.mark.parametrize("text", ["", "[]", "{", "\0"])
def test_notes_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "commits.json").write_text(text)
    assert known_commits(tmp_path) == {}
