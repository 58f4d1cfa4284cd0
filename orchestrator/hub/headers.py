"""Reads a model on the Hub without a download: its configurations, and the headers of its weights by range requests."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined] # exported lazily

from orchestrator.errors import CheckpointError, HubNotFoundError, ModelUnsupportedError
from orchestrator.hub.cache import RepoCache
from orchestrator.hub.errors import hub_errors
from orchestrator.hub.patterns import MODEL_FILES
from orchestrator.hub.snapshot import RemoteFile, resolve_commit, snapshot
from orchestrator.models.headers import Stored, Weights, joined, parse

_AT_ONCE = 8
_SECONDS = 30
_MOST_FILES = 1000
_FIRST_BYTES = 100_000
"""Enough for the headers of most files, so that one request is enough as well."""
_LARGEST_HEADER = 25_000_000
CONFIG, QUANT_CONFIG, INDEX = "config.json", "hf_quant_config.json", "model.safetensors.index.json"


@dataclass(frozen=True)
class RemoteModel:
    """What is known of a model without its weights."""

    repo: str
    commit: str
    config: object
    """The content of config.json."""
    quantization: object | None
    """The content of hf_quant_config.json; None if there is none."""
    weights: Weights | None
    """What the headers of its safetensors files describe; None if it has no such file."""

    @property
    def tensor_bytes(self) -> int | None:
        """Bytes of all tensors; None if it has no safetensors file."""
        return self.weights.bytes if self.weights else None


def look_at(repo: str, revision: str = "main") -> RemoteModel:
    """Read a model's configurations and the headers of its weights.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit.

    Raises:
        HubError: One of its kinds.
        CheckpointError: A file's content does not fit its name.
        ModelUnsupportedError: Its weights are GGUF files.
    """
    commit = resolve_commit(repo, revision)
    files = {file.path: file for file in snapshot(repo, commit, (*MODEL_FILES, "*.gguf")).files}
    weights = [file for name, file in files.items() if name.endswith(".safetensors")]
    if not weights and any(name.endswith(".gguf") for name in files):
        message = f"{repo}@{revision} has GGUF files only, which the runtimes here do not serve"
        raise ModelUnsupportedError(message, hint="give the repository with the weights in safetensors")
    if CONFIG not in files:
        message = f"{repo}@{revision} has no {CONFIG}"
        raise HubNotFoundError(message, hint="give the repository of the model itself")
    with hub_errors(repo, revision):
        return RemoteModel(
            repo=repo,
            commit=commit,
            config=read_json(repo, commit, CONFIG),
            quantization=read_json(repo, commit, QUANT_CONFIG) if QUANT_CONFIG in files else None,
            weights=_weights(repo, commit, weights, indexed=INDEX in files) if weights else None,
        )


def _weights(repo: str, commit: str, files: list[RemoteFile], *, indexed: bool) -> Weights:
    """Read every header, from the cache of the commit or by ranged requests."""
    where = f"{repo}@{commit[:12]}"
    if len(files) > _MOST_FILES:
        message = f"{where} has {len(files)} files of weights, expected at most {_MOST_FILES}"
        raise CheckpointError(message)
    index = read_json(repo, commit, INDEX) if indexed else None
    if indexed and not isinstance(index, dict):
        message = f"{where}: {INDEX}: found a {type(index).__name__}, expected an object"
        raise CheckpointError(message)
    cached = RepoCache(Path(constants.HF_HUB_CACHE), repo, "model").listing(f"{commit}-headers")
    found = _remembered(cached, files, where)
    if found is None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            headers = dict(
                zip(
                    (file.path for file in files), pool.map(lambda file: _fetch(repo, commit, file), files), strict=True
                )
            )
        found = _parsed(headers, files, where)
        _remember(cached, headers)
    return joined(found.items(), index, where)


def _parsed(headers: dict[str, str], files: list[RemoteFile], where: str) -> dict[str, dict[str, Stored]]:
    return {
        file.path: parse(text, f"{where}: {file.path}", file.size - 8 - len(text.encode("utf-8", "surrogatepass")))
        for file in files
        for text in (headers[file.path],)
    }


def _remembered(cached: Path, files: list[RemoteFile], where: str) -> dict[str, dict[str, Stored]] | None:
    """Return the headers in the cache; None if they are not there, or damaged."""
    try:
        headers = json.loads(cached.read_text(encoding="utf-8"))
        return _parsed(headers, files, where)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, CheckpointError):
        return None


def _remember(cached: Path, headers: dict[str, str]) -> None:
    with suppress(OSError):  # a read-only cache cannot be changed
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_name(f".{cached.name}.orchestrator")
        temporary.write_text(json.dumps(headers), encoding="utf-8")
        temporary.replace(cached)


def _fetch(repo: str, commit: str, file: RemoteFile) -> str:
    """Fetch the header of one file. Only its beginning is requested.

    Raises:
        CheckpointError: It does not begin like a safetensors file.
    """
    start = _beginning(repo, commit, file.path, _FIRST_BYTES)
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0  # noqa: PLR2004 - the length of the length
    if not 1 < length <= min(_LARGEST_HEADER, file.size - 8):
        message = f"{repo}@{commit}: {file.path} does not begin like a safetensors file"
        raise CheckpointError(message)
    if len(start) < 8 + length:
        start = _beginning(repo, commit, file.path, 8 + length)
    try:
        return start[8 : 8 + length].decode()
    except ValueError:
        message = f"{repo}@{commit}: {file.path}: the header is not UTF-8"
        raise CheckpointError(message) from None


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


def read_json(repo: str, commit: str, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """Fetch a small JSON file. The caller translates the client's errors with `hub_errors`.

    Raises:
        CheckpointError: It is not JSON.
    """
    url = hf_hub_url(repo, name, revision=commit)
    response = get_session().get(url, headers=build_hf_headers(), timeout=_SECONDS)
    hf_raise_for_status(response)
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError) as error:
        message = f"{repo}@{commit}: {name} is not JSON: {error}"
        raise CheckpointError(message) from None
