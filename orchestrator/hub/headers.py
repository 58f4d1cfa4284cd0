"""Reads a model on the Hub without a download: its configurations, and the headers of its weights by range requests."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined] # exported lazily

from orchestrator.errors import CheckpointError, HubNotFoundError, ModelUnsupportedError
from orchestrator.hub.errors import hub_errors
from orchestrator.hub.patterns import MODEL_FILES
from orchestrator.hub.snapshot import RemoteFile, resolve_commit, snapshot
from orchestrator.models.files import CONFIG, INDEX, QUANT_CONFIG, ModelFiles, an_object
from orchestrator.models.headers import Stored, header_length, joined, parse

_AT_ONCE = 8
_SECONDS = 30
_MOST_FILES = 1000
_FIRST_BYTES = 100_000
"""Enough for the headers of most files, so that one request is enough as well."""
_LARGEST_JSON = 64_000_000
"""Real configurations are much smaller, even with a list of all experts."""


def look_at(repo: str, revision: str = "main") -> ModelFiles:
    """Read a model's configurations and the headers of its weights.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit.

    Raises:
        HubError: One of its kinds.
        ConfigInvalidError: A configuration is not an object.
        CheckpointError: A file's content does not fit its name.
        ModelUnsupportedError: Its weights are GGUF files.
    """
    return _fetched(repo, revision, resolve_commit(repo, revision))


def _where(repo: str, commit: str) -> str:
    return f"{repo}@{commit[:12]}"


def _fetched(repo: str, revision: str, commit: str) -> ModelFiles:
    files = {file.path: file for file in snapshot(repo, commit, (*MODEL_FILES, "*.gguf")).files}
    weights = [file for name, file in files.items() if name.endswith(".safetensors")]
    if not weights and any(name.endswith(".gguf") for name in files):
        message = f"{repo}@{revision} has GGUF files only, which the runtimes here do not serve"
        raise ModelUnsupportedError(message, hint="give the repository with the weights in safetensors")
    if CONFIG not in files:
        message = f"{repo}@{revision} has no {CONFIG}"
        raise HubNotFoundError(message, hint="give the repository of the model itself")
    where = _where(repo, commit)

    def read(name: str) -> dict[str, object] | None:
        return _read_json(repo, commit, files[name]) if name in files else None

    with hub_errors(repo, revision):
        config = read(CONFIG) or {}
        headers = _headers(repo, commit, weights, read(INDEX)) if weights else None
        return ModelFiles.of(where, config, read(QUANT_CONFIG), headers, commit)


def _headers(repo: str, commit: str, files: list[RemoteFile], index: dict[str, object] | None) -> dict[str, Stored]:
    """Fetch and join the header of every file."""
    where = _where(repo, commit)
    if len(files) > _MOST_FILES:
        message = f"{where} has {len(files)} files of weights, expected at most {_MOST_FILES}"
        raise CheckpointError(message)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda file: _header(repo, commit, file), files)
        return joined(zip((file.path for file in files), found, strict=True), index, where)


def _header(repo: str, commit: str, file: RemoteFile) -> dict[str, Stored]:
    """Fetch the header of one file. Only its beginning is requested."""
    where = f"{_where(repo, commit)}: {file.path}"
    start = _beginning(repo, commit, file.path, _FIRST_BYTES)
    length = header_length(start, file.size, where)
    if len(start) < 8 + length:
        start = _beginning(repo, commit, file.path, 8 + length)
    return parse(start[8 : 8 + length], where, file.size - 8 - length)


def _beginning(repo: str, commit: str, name: str, size: int) -> bytes:
    """Fetch the first bytes of a file. A server that ignores the range sends more, which is not read."""
    url = hf_hub_url(repo, name, revision=commit)
    headers = {**build_hf_headers(), "Range": f"bytes=0-{size - 1}"}
    with get_session().stream("GET", url, headers=headers, timeout=_SECONDS, follow_redirects=True) as response:
        hf_raise_for_status(response)
        found = bytearray()
        for chunk in response.iter_bytes():
            found += chunk
            if len(found) >= size:
                break
    return bytes(found[:size])


def _read_json(repo: str, commit: str, file: RemoteFile) -> dict[str, object]:
    """Fetch a small JSON file.

    Raises:
        CheckpointError: It is too large, or not JSON.
        ConfigInvalidError: It is not an object.
    """
    where = f"{_where(repo, commit)}: {file.path}"
    if file.size > _LARGEST_JSON:
        message = f"{where} has {file.size} bytes, expected at most {_LARGEST_JSON}"
        raise CheckpointError(message)
    try:
        return an_object(json.loads(_beginning(repo, commit, file.path, _LARGEST_JSON)), where)
    except (ValueError, RecursionError) as error:
        message = f"{where} is not JSON: {error}"
        raise CheckpointError(message) from None
