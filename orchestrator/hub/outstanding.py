"""What a download would still write: exact where its files are known, else as much as somebody expects."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants

from orchestrator.hub.cache import RepoCache
from orchestrator.hub.offline import is_there, listing_file
from orchestrator.hub.partial import journaled
from orchestrator.hub.snapshot import Snapshot, parse_listing, read_listing
from orchestrator.hub.wanted import RepoType
from orchestrator.room import Need, device_of, files_in


def known_snapshot(
    repo: str, commit: str, kind: RepoType, include: tuple[str, ...], listing: str | None
) -> Snapshot | None:
    """Find the list of a commit's files without asking anybody.

    Args:
        repo: Its name.
        commit: The commit, or what is not resolved yet.
        kind: Of the repository.
        include: What is wanted of it.
        listing: The list, where a lock has it.
    """
    if listing is not None:
        return parse_listing(listing, "the lock")
    remembered = listing_file(repo, commit, kind, include)
    return read_listing(remembered) if remembered.is_file() else None


def needs(snapshot: Snapshot, output: Path, step: str) -> tuple[Need, ...]:
    """Count what is still to come, and all of it again where it cannot be linked from the Hub's cache.

    Args:
        snapshot: What is wanted.
        output: Where it shall appear.
        step: The step that wants it.
    """
    cache = RepoCache.of(snapshot)
    missing = [file for file in snapshot.files if not is_there(cache, snapshot.commit, file)]
    to_come = sum(file.size - journaled(cache.incomplete(file.sha256 or file.git_sha1), file.size) for file in missing)
    what = f"{step}: {len(missing)} of {len(snapshot.files)} files to fetch"
    return _linked(Need(cache.folder, to_come, what), _copy(output, snapshot.size, step))


def expected_needs(repo: str, kind: RepoType, size: int, output: Path, step: str) -> tuple[Need, ...]:
    """Do so for files that are not known yet: what the cache has of the repository is taken for some of them.

    Args:
        repo: Its name.
        kind: Of the repository.
        size: Bytes that are expected.
        output: Where they shall appear.
        step: The step that wants them.
    """
    cache = RepoCache(Path(constants.HF_HUB_CACHE), repo, kind)
    there = sum(status.st_size for status in files_in(cache.folder / "blobs"))
    coming = Need(cache.folder, max(0, size - there), f"{step}: to fetch, as predicted")
    return _linked(coming, _copy(output, size, step))


def _copy(output: Path, size: int, step: str) -> Need:
    return Need(output, size, f"{step}: a copy out of the Hub's cache")


def _linked(coming: Need, copy: Need) -> tuple[Need, ...]:
    """Leave the copy out where the file system links instead."""
    return (coming,) if device_of(coming.folder) == device_of(copy.folder) else (coming, copy)
