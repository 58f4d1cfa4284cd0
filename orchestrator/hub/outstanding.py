"""Calculates what a download will still write: exactly for known files, else the expected size."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants

from orchestrator.hub.cache import RepoCache
from orchestrator.hub.listing import Snapshot, parse_listing, read_listing
from orchestrator.hub.offline import is_there, listing_file
from orchestrator.hub.partial import journaled
from orchestrator.hub.patterns import RepoType
from orchestrator.store.space import Need, device_of, files_in


def known_snapshot(
    repo: str, commit: str, kind: RepoType, include: tuple[str, ...], listing: str | None
) -> Snapshot | None:
    """Find the saved list of a commit's files without network.

    Args:
        repo: Its name.
        commit: The commit, or an unresolved revision.
        kind: Of the repository.
        include: File patterns.
        listing: The list, if a lock has it.
    """
    if listing is not None:
        return parse_listing(listing, "the lock")
    remembered = listing_file(repo, commit, kind, include)
    return read_listing(remembered) if remembered.is_file() else None


def needs(snapshot: Snapshot, output: Path, step: str) -> tuple[Need, ...]:
    """Count the remaining bytes, and all bytes again if the Hub's cache cannot be linked.

    Args:
        snapshot: The files.
        output: The destination.
        step: The step that fetches them.
    """
    cache = RepoCache.of(snapshot)
    missing = [file for file in snapshot.files if not is_there(cache, snapshot.commit, file)]
    to_come = sum(file.size - journaled(cache.incomplete(file.digest), file.size) for file in missing)
    what = f"{step}: {len(missing)} of {len(snapshot.files)} files to fetch"
    return _linked(Need(cache.folder, to_come, what), _copy(output, snapshot.size, step))


def expected_needs(repo: str, kind: RepoType, size: int, output: Path, step: str) -> tuple[Need, ...]:
    """Count unknown files: what the cache has of the repository is assumed to belong to them.

    Args:
        repo: Its name.
        kind: Of the repository.
        size: Expected bytes.
        output: The destination.
        step: The step that fetches them.
    """
    cache = RepoCache(Path(constants.HF_HUB_CACHE), repo, kind)
    there = sum(status.st_size for status in files_in(cache.folder / "blobs"))
    coming = Need(cache.folder, max(0, size - there), f"{step}: to fetch, as predicted")
    return _linked(coming, _copy(output, size, step))


def _copy(output: Path, size: int, step: str) -> Need:
    return Need(output, size, f"{step}: a copy out of the Hub's cache")


def _linked(coming: Need, copy: Need) -> tuple[Need, ...]:
    """Leave the copy out if the file system can link instead."""
    return (coming,) if device_of(coming.folder) == device_of(copy.folder) else (coming, copy)
