"""Reads a model on the Hub without a download: its configurations, and the headers of its weights by range requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from orchestrator.errors import CheckpointError, HubNotFoundError, ModelUnsupportedError
from orchestrator.hub import calls
from orchestrator.hub.listing import RemoteFile, Snapshot
from orchestrator.hub.patterns import MODEL_FILES
from orchestrator.hub.snapshot import read_json, resolve_commit, snapshot
from orchestrator.models.files import CONFIG, QUANT_CONFIG, ModelFiles, an_object
from orchestrator.models.headers import Stored, header_length, joined, parse
from orchestrator.models.weight_files import INDEX

_AT_ONCE = 8
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
    listing = snapshot(repo, commit, (*MODEL_FILES, "*.gguf"), requires_weights=False)
    files = {file.path: file for file in listing.files}
    weights = [file for name, file in files.items() if name.endswith(".safetensors")]
    if not weights and any(name.endswith(".gguf") for name in files):
        message = f"{repo}@{revision} has GGUF files only, which the runtimes here do not serve"
        raise ModelUnsupportedError(message, hint="give the repository with the weights in safetensors")
    if CONFIG not in files:
        message = f"{repo}@{revision} has no {CONFIG}"
        raise HubNotFoundError(message, hint="give the repository of the model itself")
    where = _where(repo, commit)

    def read(name: str) -> dict[str, object] | None:
        return _read_json(listing, files[name]) if name in files else None

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
        found = pool.map(partial(_header, repo, commit), files)
        return joined(zip((file.path for file in files), found, strict=True), index, where)


def _header(repo: str, commit: str, file: RemoteFile) -> dict[str, Stored]:
    """Fetch the header of one file. Only its beginning is requested."""
    where = f"{_where(repo, commit)}: {file.path}"
    start = calls.beginning(repo, commit, file, _FIRST_BYTES)
    length = header_length(start, file.size, where)
    if len(start) < 8 + length:
        start = calls.beginning(repo, commit, file, 8 + length)
    return parse(start[8 : 8 + length], where, file.size - 8 - length)


def _read_json(listing: Snapshot, file: RemoteFile) -> dict[str, object]:
    """Read a small JSON file.

    Raises:
        CheckpointError: It is too large, or not JSON.
        ConfigInvalidError: It is not an object.
    """
    where = f"{_where(listing.repo, listing.commit)}: {file.path}"
    if file.size > _LARGEST_JSON:
        message = f"{where} has {file.size} bytes, expected at most {_LARGEST_JSON}"
        raise CheckpointError(message)
    return an_object(read_json(listing, file), where)
