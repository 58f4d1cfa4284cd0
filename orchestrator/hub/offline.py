"""Checks what is available offline: the files of a commit in the Hub's cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import constants

from orchestrator.hub.cache import RepoCache
from orchestrator.hub.listing import RemoteFile, Snapshot, read_listing
from orchestrator.hub.patterns import RepoType

_SHOWN = 5


def listing_file(repo: str, commit: str, kind: RepoType, include: tuple[str, ...]) -> Path:
    """Return the path of the saved list of a commit's files. It depends on the file patterns."""
    patterns = hashlib.sha256(json.dumps(include).encode()).hexdigest()[:12]
    return RepoCache(Path(constants.HF_HUB_CACHE), repo, kind).listing(f"{commit}-{patterns}")


def missing_files(
    repo: str, commit: str, kind: RepoType, include: tuple[str, ...], known: Snapshot | None = None
) -> str:
    """List what the cache lacks of a commit; empty if it has everything.

    Args:
        repo: Its name.
        commit: The commit.
        kind: Of the repository.
        include: File patterns.
        known: The list of its files, if a lock has it.
    """
    remembered = listing_file(repo, commit, kind, include)
    if known is None:
        if not remembered.is_file():
            return "the list of its files is not known"
        known = read_listing(remembered)
    missing = [file.path for file in known.files if not is_there(RepoCache.of(known), commit, file)]
    if not missing:
        return ""
    names = ", ".join(missing[:_SHOWN]) + (" …" if missing[_SHOWN:] else "")
    return f"{len(missing)} of {len(known.files)} files are not in {RepoCache.of(known).folder}: {names}"


def is_there(cache: RepoCache, commit: str, file: RemoteFile) -> bool:
    """Tell by name and size whether the cache has a file. Its bytes are checked when it is used."""
    places = (cache.pointer(commit, file.path), cache.blob(file.digest))
    return any(place.exists() and place.stat().st_size == file.size for place in places)
