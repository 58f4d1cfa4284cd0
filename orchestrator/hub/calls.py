"""Sends our requests to the Hub that are answered in one piece: a function for each.

The Hub may not be what answers: a proxy or a login page sends HTML with status 200, a broken mirror half a document.
Each function checks all that it returns. An answer of another kind is an error that shows what came.
`transfer` and `xet` fetch the bytes of files, which are checked by their digests.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined] # exported lazily

from orchestrator.errors import HubError, OrchestratorError
from orchestrator.hub.errors import NOT_THE_HUB, hub_errors, shown
from orchestrator.hub.listing import RemoteFile
from orchestrator.hub.partial import digest_of
from orchestrator.hub.patterns import RepoType, is_commit
from orchestrator.hub.retry import no_long_waits, retried
from orchestrator.hub.stop import Stop, StoppedError
from orchestrator.hub.transfer import ATTEMPTS, LONGEST_PAUSE
from orchestrator.values import frozen

_Kind = TypeVar("_Kind")
_SECONDS = 30
_MOST_PAGES = 1000
"""Answers to one request. The Hub lists a thousand files in each."""


@frozen
class ModelCard:
    """What the Hub tells everybody about a model."""

    commit: str
    names: frozenset[str]
    """Paths of all files."""
    gated: bool
    license: str | None
    """The licence's short name, or the name in the card; None if the card has none."""
    counted: int | None
    """Number of values in its safetensors files."""
    config: Mapping[str, Any]
    """The part of config.json that the Hub shows."""


def commit(repo: str, revision: str, kind: RepoType) -> str:
    """Ask for the commit of a revision.

    Raises:
        HubError: One of its kinds.
    """
    with _answers(repo, revision):
        sha = retried(lambda: HfApi().repo_info(repo, revision=revision, repo_type=kind).sha)
        return _named_commit(repo, revision, sha)


def model_card(repo: str, revision: str) -> ModelCard:
    """Ask for what the Hub tells everybody about a model.

    Raises:
        HubError: One of its kinds.
    """
    with _answers(repo, revision):
        info = retried(lambda: HfApi().model_info(repo, revision=revision))
        card = info.card_data
        short, name = getattr(card, "license", None), getattr(card, "license_name", None)
        return ModelCard(
            commit=_named_commit(repo, revision, info.sha),
            names=frozenset(_typed(sibling.rfilename, str) for sibling in info.siblings or ()),
            gated=bool(info.gated),
            license=str(name) if short in (None, "other") and name else short if isinstance(short, str) else None,
            counted=_typed(info.safetensors.total, int) if info.safetensors else None,
            config=_typed(info.config or {}, dict),
        )


def tree(repo: str, commit: str, kind: RepoType) -> tuple[RemoteFile, ...]:
    """List all files of a commit.

    Raises:
        HubError: One of its kinds.
    """
    with _answers(repo, commit) as received, no_long_waits():
        entries = HfApi().list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
        files = {entry.path: _remote_file(entry) for entry in _once(entries) if isinstance(entry, RepoFile)}
        for page in received:
            if "/tree/" in page.request.url.path:  # the client also asks questions of its own
                _typed(page.json(), list)
        return tuple(files.values())


def file_metadata(repo: str, commit: str, name: str, kind: RepoType, stop: Stop) -> HfFileMetadata:
    """Ask for a file's headers, before its bytes.

    Raises:
        HubError: One of its kinds.
        StoppedError: The threads must stop.
    """
    url = hf_hub_url(repo, name, revision=commit, repo_type=kind)
    with _answers(repo, commit, name):
        found = retried(lambda: get_hf_file_metadata(url), ATTEMPTS, LONGEST_PAUSE, stop.sleep)
        _typed(found.commit_hash, str)
        return found


def beginning(repo: str, commit: str, file: RemoteFile, size: int) -> bytes:
    """Fetch the first bytes of a file. A server that ignores the range sends more, which is not read.

    Raises:
        HubError: One of its kinds.
    """
    url = hf_hub_url(repo, file.path, revision=commit)
    headers = {**build_hf_headers(), "Range": f"bytes=0-{size - 1}"}

    def request() -> bytes:
        with get_session().stream("GET", url, headers=headers, timeout=_SECONDS, follow_redirects=True) as response:
            hf_raise_for_status(response)
            found = bytearray()
            for chunk in response.iter_bytes():
                found += chunk
                if len(found) >= size:
                    break
            _require_part(response, bytes(found), file, at=f"{repo}@{commit}: {file.path}")
        return bytes(found[:size])

    with _answers(repo, commit, file.path):
        return retried(request)


def content(repo: str, commit: str, name: str) -> bytes:
    """Fetch a small file of a model.

    Raises:
        HubError: One of its kinds.
    """
    url = hf_hub_url(repo, name, revision=commit)

    def request() -> httpx2.Response:
        response = get_session().get(url, headers=build_hf_headers(), timeout=_SECONDS)
        hf_raise_for_status(response)
        return response

    with _answers(repo, commit, name):
        response = retried(request)
        announced = _announced_digest(response)
        if response.status_code != HTTPStatus.OK:
            message = f"HTTP {response.status_code}"
            raise ValueError(message)
        if announced and announced not in _digests(response.content):
            message = "other bytes than the answer announces"
            raise ValueError(message)
        return response.content


@contextmanager
def _answers(repo: str, revision: str, path: str = "") -> Iterator[list[httpx2.Response]]:
    """Translate the errors of a request, also those that the client raises for an answer that it cannot read.

    Yields:
        The answers so far of the requests in this thread.
    """
    received: list[httpx2.Response] = []
    thread = threading.get_ident()

    def keep(response: httpx2.Response) -> None:
        if threading.get_ident() == thread:
            received.append(response)
            if len(received) > _MOST_PAGES:
                message = "an answer without end"
                raise ValueError(message)

    with hub_errors(repo, revision, path):  # certificates are read here
        hooks = get_session().event_hooks["response"]
    hooks.append(keep)
    try:
        with hub_errors(repo, revision, path):
            yield received
    except (OrchestratorError, StoppedError, OSError):
        raise
    except Exception as error:
        at = f"{repo}@{revision}" + (f": {path}" if path else "")
        message = f"{at}: the Hub sent something else than was requested: {_last(received)}"
        raise HubError(message, hint=NOT_THE_HUB) from error
    finally:
        hooks.remove(keep)


def _last(received: list[httpx2.Response]) -> str:
    if not received:
        return "no answer"
    response = received[-1]
    try:
        content = response.content
    except httpx2.ResponseNotRead:
        content = b""
    return f"HTTP {response.status_code}, {shown(content, response.headers.get('Content-Type', ''))}"


def _named_commit(repo: str, revision: str, sha: object) -> str:
    if not isinstance(sha, str) or not is_commit(sha):
        message = f"{repo}@{revision}: the Hub names no commit"
        raise HubError(message, hint=NOT_THE_HUB)
    return sha


def _once(entries: Iterable[Any]) -> Iterator[Any]:
    """Stop at an entry that is listed twice, because a list may name itself as its next page."""
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            message = f"{entry.path} is listed twice"
            raise ValueError(message)
        seen.add(entry.path)
        yield entry


def _remote_file(entry: RepoFile) -> RemoteFile:
    sha256 = _typed(entry.lfs.sha256, str) if entry.lfs else None
    file = RemoteFile(_typed(entry.path, str), _typed(entry.size, int), sha256, _typed(entry.blob_id, str))
    if file.size < 0 or not file.path or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", file.digest):
        message = "an entry that describes no file"
        raise ValueError(message)
    return file


def _typed(value: object, kind: type[_Kind]) -> _Kind:
    if not isinstance(value, kind) or isinstance(value, bool):
        message = f"a {type(value).__name__} instead of a {kind.__name__}"
        raise TypeError(message)
    return value


def _announced_digest(response: httpx2.Response) -> str | None:
    """Return the digest by which the Hub identifies the file, if the answer names it."""
    headers = next((one.headers for one in response.history if "X-Linked-Etag" in one.headers), response.headers)
    etag: str = headers.get("X-Linked-Etag", "" if response.history else headers.get("ETag", ""))
    plain = etag.removeprefix("W/").strip('"')
    return plain if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", plain) else None


def _digests(content: bytes) -> tuple[str, ...]:
    found = [digest_of(len(content), large=large) for large in (True, False)]
    for digest in found:
        digest.update(content)
    return tuple(digest.hexdigest() for digest in found)


def _require_part(response: httpx2.Response, found: bytes, file: RemoteFile, at: str) -> None:
    """Refuse an answer that is no part of the listed file: it names the size of another one, or none."""
    headers = response.headers
    whole = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    if not response.is_success or whole != str(file.size):
        message = f"{at}: the Hub sent something else than the file: {shown(found, headers.get('Content-Type', ''))}"
        raise HubError(message, hint=NOT_THE_HUB)
