"""Lists one commit's files by file patterns, from the Hub or from a lock."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile

from orchestrator.errors import HubError, HubOfflineError, LockInvalidError, PathEscapesError
from orchestrator.hub.errors import hub_errors
from orchestrator.hub.patterns import DUPLICATES, MODEL_FILES, RepoType, is_commit
from orchestrator.hub.retry import no_long_waits, retried


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub's tree describes it."""

    path: str
    size: int
    sha256: str | None
    """Digest of a large (LFS or Xet) file."""
    git_sha1: str
    """Digest of a small file's git blob."""


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository and its files that match the file patterns."""

    repo: str
    kind: RepoType
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


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
    with hub_errors(repo, revision):
        commit = retried(lambda: HfApi().repo_info(repo, revision=revision, repo_type=kind).sha)
    if not commit or not is_commit(commit):
        message = f"{repo}@{revision}: the Hub names no commit"
        raise HubError(message, hint="try again later")
    return commit


def snapshot(repo: str, commit: str, include: tuple[str, ...] = MODEL_FILES, kind: RepoType = "model") -> Snapshot:
    """List the files of a commit that match a pattern.

    Raises:
        HubError: One of its kinds.
        PathEscapesError: The Hub names a file outside the repository.
    """
    with hub_errors(repo, commit), no_long_waits():
        tree = [
            entry
            for entry in HfApi().list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
            if isinstance(entry, RepoFile) and _is_included(entry.path, include)
        ]
    files = tuple(RemoteFile(e.path, e.size, e.lfs.sha256 if e.lfs else None, e.blob_id) for e in tree)
    return _inside(Snapshot(repo, kind, commit, files))


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


def listing_text(snapshot: Snapshot) -> str:
    """Write a list of files, for `read_listing`."""
    fields = {
        "repo": snapshot.repo,
        "kind": snapshot.kind,
        "commit": snapshot.commit,
        "files": [asdict(file) for file in snapshot.files],
    }
    return json.dumps(fields, indent=1) + "\n"


def read_listing(file: Path) -> Snapshot:
    """Read what `listing_text` wrote.

    Raises:
        LockInvalidError: It is not such a list.
        PathEscapesError: It names a file outside the repository.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        message = f"{file} is no list of files: {error}"
        raise LockInvalidError(message) from error
    return parse_listing(text, str(file))


def parse_listing(text: str, where: str) -> Snapshot:
    """Read the text of such a list.

    Raises:
        LockInvalidError: It is not such a list.
        PathEscapesError: It names a file outside the repository.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        files = tuple(RemoteFile(**entry) for entry in fields["files"])
        found = Snapshot(fields["repo"], fields["kind"], fields["commit"], files)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{where} is no list of files: {error}"
        raise LockInvalidError(message) from error
    return _inside(found)


def _inside(found: Snapshot) -> Snapshot:
    for file in found.files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or "\0" in file.path:
            message = f"{found.repo}@{found.commit} names a file outside the repository: {file.path!r}"
            raise PathEscapesError(message)
    return found


def _is_included(path: str, include: tuple[str, ...]) -> bool:
    return _matches(path, include) and not _matches(path, DUPLICATES)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
