"""What we ask of the Hub, through huggingface_hub: a commit for a revision, a list of files, the files.

The client does not check what it downloads beyond the size (measured with 2.4.0), so every file is hashed here
against what the Hub's tree says of it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import httpx2
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from orchestrator.errors import (
    DownloadCorruptError,
    HubAccessError,
    HubError,
    HubNotFoundError,
    PathEscapesError,
)

RepoType = Literal["model", "dataset"]

MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "LICENSE*",
    "NOTICE*",
    "README.md",
)
"""What a checkpoint needs; nothing that can carry code (`.bin`, `.pt`, `.py`)."""

_DUPLICATES = ("original/*", "metal/*", "consolidated*.safetensors", "onnx/*")
"""The same weights once more in another layout."""

_UNAUTHORIZED, _FORBIDDEN = 401, 403


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub's tree describes it."""

    path: str
    size: int
    sha256: str | None
    """Of a large (LFS or Xet) file."""
    git_sha1: str
    """Of a small file's git blob."""


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository and the files of it that are wanted."""

    repo: str
    kind: RepoType
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


def resolve_commit(repo: str, revision: str, kind: RepoType = "model") -> str:
    """Give the commit that a branch or tag points to; a commit is itself, without asking."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    with _hub_words(repo, revision):
        commit = HfApi().repo_info(repo, revision=revision, repo_type=kind).sha
    if not commit:
        message = f"{repo}@{revision}: the Hub names no commit"
        raise HubError(message, hint="try again later")
    return commit


def snapshot(repo: str, commit: str, include: tuple[str, ...] = MODEL_FILES, kind: RepoType = "model") -> Snapshot:
    """List the files of a commit that match a pattern.

    Raises:
        HubError: One of its kinds.
        PathEscapesError: Where the Hub names a file outside the repository.
    """
    with _hub_words(repo, commit):
        tree = [
            entry
            for entry in HfApi().list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
            if isinstance(entry, RepoFile) and _wanted(entry.path, include)
        ]
    for entry in tree:
        path = PurePosixPath(entry.path)
        if path.is_absolute() or ".." in path.parts:
            message = f"{repo}@{commit} names a file outside the repository: {entry.path!r}"
            raise PathEscapesError(message)
    files = tuple(RemoteFile(e.path, e.size, e.lfs.sha256 if e.lfs else None, e.blob_id) for e in tree)
    return Snapshot(repo, kind, commit, files)


def fetch(snapshot: Snapshot, file: RemoteFile, output: Path) -> None:
    """Bring one file of a snapshot into a folder, checked; it stays in the Hub's own cache for other programs.

    A file that is not what the tree says is fetched once more; wrong again, it leaves the Hub's cache too.

    Raises:
        DownloadCorruptError: Where it is wrong twice.
    """
    for again in (False, True):
        with _hub_words(snapshot.repo, snapshot.commit):
            cached = Path(
                hf_hub_download(
                    snapshot.repo,
                    file.path,
                    revision=snapshot.commit,
                    repo_type=snapshot.kind,
                    force_download=again,
                )
            )
        if _is_right(cached, file):
            link_or_copy(cached.resolve(), output / file.path)
            return
    cached.resolve().unlink(missing_ok=True)
    cached.unlink(missing_ok=True)
    message = f"{snapshot.repo}@{snapshot.commit}: {file.path} is not what the Hub says it is, twice in a row"
    raise DownloadCorruptError(message, hint="a proxy or a disk may be at fault; nothing was kept")


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file appear in a second place: by hard link, or by copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _wanted(path: str, include: tuple[str, ...]) -> bool:
    return _matches(path, include) and not _matches(path, _DUPLICATES)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _is_right(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.git_sha1)


@contextmanager
def _hub_words(repo: str, revision: str) -> Iterator[None]:
    """Say what the Hub's client says, in our words."""
    at = f"{repo}@{revision}"
    try:
        yield
    except GatedRepoError as error:
        message = f"{at} is gated: its owner must grant your account access"
        hint = f"ask for it on https://huggingface.co/{repo}, then log in (`hf auth login`) or set HF_TOKEN"
        raise HubAccessError(message, hint=hint) from error
    except RevisionNotFoundError as error:
        message = f"{repo} has no revision {revision}"
        raise HubNotFoundError(
            message, hint="look at its branches and commits on the Hub, or leave `revision` out"
        ) from error
    except RepositoryNotFoundError as error:
        message = f"the Hub has no {repo}, or your token may not see it"
        raise HubNotFoundError(
            message, hint="check the spelling; for a private one log in (`hf auth login`)"
        ) from error
    except LocalEntryNotFoundError as error:  # the client's word for every failure to reach the Hub
        message = f"{at}: the Hub cannot be reached and the file is not in the local cache ({_cause(error)})"
        raise HubError(
            message, hint="check the network, or HF_ENDPOINT if you use a mirror, and run it again"
        ) from error
    except EntryNotFoundError as error:
        message = f"{at} has no such file: {error}"
        raise HubNotFoundError(message, hint="it may have been renamed; run `orchestrator lock` again") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (_UNAUTHORIZED, _FORBIDDEN):
            message = f"{at}: the Hub refuses the token (HTTP {status})"
            raise HubAccessError(message, hint="log in again (`hf auth login`) or set HF_TOKEN") from error
        message = f"{at}: the Hub answered HTTP {status}"
        raise HubError(message, hint="try again later") from error
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        message = f"{at}: the Hub cannot be reached: {error}"
        raise HubError(message, hint="check the network, or HF_ENDPOINT if you use a mirror") from error


def _cause(error: BaseException) -> str:
    while error.__cause__:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__
