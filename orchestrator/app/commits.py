"""Remembers the last known commit of each branch, so that a later command finds it without network."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.errors import machine_faults
from orchestrator.store.temporary import replacing


def known_commits(store: Path) -> dict[str, str]:
    """Read the commits that earlier builds of a store resolved; none if the file is missing or unreadable."""
    try:
        found = json.loads((store / "commits.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(commit) for name, commit in found.items()} if isinstance(found, dict) else {}


def remember_commit(store: Path, repo: str, revision: str, commit: str) -> None:
    """Save a commit. Other builds may save theirs at the same time."""
    name = name_of(repo, revision)
    if known_commits(store).get(name) == commit:
        return
    from filelock import FileLock  # noqa: PLC0415 - only to write, and a plan seldom does

    lock = store / "locks" / "commits.lock"
    with machine_faults("writing to the store"):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), replacing(store / "commits.json") as fresh:
            fresh.write_text(json.dumps({**known_commits(store), name: commit}, indent=1) + "\n", encoding="utf-8")


def name_of(repo: str, revision: str) -> str:
    """Name a branch of a repository."""
    return f"{repo}@{revision}"
