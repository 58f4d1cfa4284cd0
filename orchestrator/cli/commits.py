"""Which commit a branch was when it was last asked for: `--offline` then finds what was fetched by its branch."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock

from orchestrator.errors import machine_faults
from orchestrator.temporary import temporary_of


def known_commits(store: Path) -> dict[str, str]:
    """Read what earlier builds on a store were told; nothing where nobody was, or the file cannot be read."""
    try:
        found = json.loads((store / "commits.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(commit) for name, commit in found.items()} if isinstance(found, dict) else {}


def remember_commit(store: Path, repo: str, revision: str, commit: str) -> None:
    """Note a commit, beside those that other builds note at the same time."""
    name = name_of(repo, revision)
    if known_commits(store).get(name) == commit:
        return
    file, lock = store / "commits.json", store / "locks" / "commits.lock"
    with machine_faults("writing to the store"):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            _write(file, {**known_commits(store), name: commit})


def _write(file: Path, commits: dict[str, str]) -> None:
    temporary = temporary_of(file)
    try:
        temporary.write_text(json.dumps(commits, indent=1) + "\n", encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def name_of(repo: str, revision: str) -> str:
    """Spell a branch of a repository."""
    return f"{repo}@{revision}"
