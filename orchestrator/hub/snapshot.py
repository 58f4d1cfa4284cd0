"""Resolves a revision, and lists the files of a commit that belong to the model, or that match other patterns."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from orchestrator.errors import CheckpointError, HubError, HubNotFoundError, HubOfflineError
from orchestrator.hub import calls
from orchestrator.hub.cache import RepoCache
from orchestrator.hub.errors import NOT_THE_HUB, shown
from orchestrator.hub.listing import RemoteFile, Snapshot, inside
from orchestrator.hub.partial import digest_of
from orchestrator.hub.patterns import MODEL_FILES, RepoType, is_commit
from orchestrator.models.weight_files import INDEX, SINGLE, kind_of_weights, own_weights, unrelated_files


def resolve_commit(repo: str, revision: str, kind: RepoType = "model", *, offline: bool = False) -> str:
    """Return the commit of a branch or tag. A commit is returned without a request.

    Args:
        repo: Its name.
        revision: Branch, tag or commit.
        kind: Of the repository.
        offline: Use the commit in the Hub's cache.

    Raises:
        HubError: One of its kinds.
    """
    if is_commit(revision):
        return revision
    if offline or constants.HF_HUB_OFFLINE:
        return _remembered(repo, revision, kind)
    return calls.commit(repo, revision, kind)


def snapshot(
    repo: str,
    commit: str,
    include: tuple[str, ...] = MODEL_FILES,
    kind: RepoType = "model",
    *,
    requires_weights: bool = True,
) -> Snapshot:
    """List the files of a commit that match a pattern; of a model's weights only its own.

    Args:
        repo: Its name.
        commit: The commit.
        include: File patterns.
        kind: Of the repository.
        requires_weights: Refuse a repository without weights in safetensors, if the patterns ask for weights.

    Raises:
        HubError: One of its kinds. `HubNotFoundError` says what the repository has in place of weights.
        PathEscapesError: The Hub names a file outside the repository.
        CheckpointError: A weight file is missing, or the index of the weights is not one.
    """
    files = calls.tree(repo, commit, kind)
    listing = inside(Snapshot(repo, kind, commit, tuple(file for file in files if _matches(file.path, include))))
    names = [file.path for file in files]
    own = own_files(listing, include, names)
    if requires_weights and _asks_for_weights(listing, include) and not _has_weights(own, include):
        has, hint = kind_of_weights(names)
        message = f"{repo}@{commit} has {has}"
        raise HubNotFoundError(message, hint=hint)
    return own


def own_files(listing: Snapshot, include: tuple[str, ...], names: Sequence[str] = ()) -> Snapshot:
    """Leave other models out of a listing: stray weights, adapters, folders with weights.

    A file that one of the recipe's own patterns matches stays.

    Args:
        listing: Files that match the patterns.
        include: The patterns.
        names: Paths of all files of the commit, if they are known.

    Raises:
        HubError: The index of the weights cannot be read.
        CheckpointError: A weight file is missing, or the index is not one.
    """
    if not _asks_for_weights(listing, include):
        return listing
    files = {file.path: file for file in listing.files}
    own = own_weights(files, lambda: read_json(listing, files[INDEX]), f"{listing.repo}@{listing.commit}")
    further = _further(include)
    left_out = {name for name in unrelated_files({*names, *files}, own) if not _matches(name, further)}
    return replace(listing, files=tuple(file for file in listing.files if file.path not in left_out))


def _asks_for_weights(listing: Snapshot, include: tuple[str, ...]) -> bool:
    return listing.kind == "model" and _matches(SINGLE, include)


def _has_weights(listing: Snapshot, include: tuple[str, ...]) -> bool:
    """Tell whether a listing has weights. The recipe's own patterns may name weights of any kind."""
    further = _further(include)
    return any(file.path.endswith(".safetensors") or _matches(file.path, further) for file in listing.files)


def _further(include: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(pattern for pattern in include if pattern not in MODEL_FILES)


def read_json(listing: Snapshot, file: RemoteFile) -> object:
    """Read a JSON file of a listing from the Hub's cache, or else from the Hub.

    Raises:
        HubError: The Hub cannot be reached, or sends other bytes than those that it lists.
        CheckpointError: The file is not JSON.
    """
    where = f"{listing.repo}@{listing.commit}: {file.path}"
    pointer = RepoCache.of(listing).pointer(listing.commit, file.path)
    content = pointer.read_bytes() if pointer.is_file() else b""
    if not _is_right(content, file):
        content = calls.content(listing.repo, listing.commit, file.path)
    if not _is_right(content, file):
        message = f"{where}: the Hub lists {file.size} bytes, and sent {shown(content)}"
        raise HubError(message, hint=NOT_THE_HUB)
    try:
        found: object = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        message = f"{where} is not JSON: {error}"
        raise CheckpointError(message) from None
    return found


def _is_right(content: bytes, file: RemoteFile) -> bool:
    digest = digest_of(file.size, large=bool(file.sha256))
    digest.update(content)
    return len(content) == file.size and digest.hexdigest() == file.digest


def _remembered(repo: str, revision: str, kind: RepoType) -> str:
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)
    try:
        commit = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        commit = ""
    if not is_commit(commit):
        message = f"{repo}@{revision}: its commit is not known without network"
        raise HubOfflineError(message, hint="pin it with `orchestrator lock`, or run it once without --offline")
    return commit


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
