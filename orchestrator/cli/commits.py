"""Which commit a branch was when it was last asked for: `--offline` then finds what was fetched by its branch."""

from __future__ import annotations

import json
from pathlib import Path

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
    """Note a commit; of two builds at once the later one's note stays."""
    known = known_commits(store)
    name = name_of(repo, revision)
    if known.get(name) == commit:
        return
    file = store / "commits.json"
    temporary = temporary_of(file)
    with machine_faults("writing to the store"):
        store.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({**known, name: commit}, indent=1) + "\n", encoding="utf-8")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def name_of(repo: str, revision: str) -> str:
    """Spell a branch of a repository."""
    return f"{repo}@{revision}"
