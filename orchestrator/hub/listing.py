"""Lists the files of one commit: the values, and their text in a lock or in the Hub's cache."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.errors import LockInvalidError, PathEscapesError
from orchestrator.hub.patterns import RepoType
from orchestrator.values import frozen


@frozen
class RemoteFile:
    """A file as the Hub's tree describes it."""

    path: str
    size: int
    sha256: str | None
    """Digest of a large (LFS or Xet) file."""
    git_sha1: str
    """Digest of a small file's git blob."""

    @property
    def digest(self) -> str:
        """The digest by which the Hub and its cache identify the file."""
        return self.sha256 or self.git_sha1


@frozen
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
    return inside(found)


def inside(found: Snapshot) -> Snapshot:
    """Return a listing if all its paths stay in the repository.

    Raises:
        PathEscapesError: One does not.
    """
    for file in found.files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or "\0" in file.path:
            message = f"{found.repo}@{found.commit} names a file outside the repository: {file.path!r}"
            raise PathEscapesError(message)
    return found
