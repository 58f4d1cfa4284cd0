"""Reads a model on the Hub without a download: its configurations, and the headers of its weights by range requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import SafetensorsParsingError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined] # exported lazily

from orchestrator.errors import CheckpointError, HubNotFoundError
from orchestrator.hub.errors import hub_errors
from orchestrator.hub.snapshot import resolve_commit, snapshot

_AT_ONCE = 8
_SECONDS = 30
CONFIG, QUANT_CONFIG = "config.json", "hf_quant_config.json"


@dataclass(frozen=True)
class RemoteModel:
    """What is known of a model without its weights."""

    repo: str
    commit: str
    config: object
    """The content of config.json."""
    quantization: object | None
    """The content of hf_quant_config.json; None if there is none."""
    tensor_bytes: int | None
    """Bytes of all tensors by the headers of its safetensors files; None if it has no such file."""


def look_at(repo: str, revision: str = "main") -> RemoteModel:
    """Read a model's configurations and the headers of its weights.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit.

    Raises:
        HubError: One of its kinds.
        CheckpointError: A file's content does not fit its name.
    """
    commit = resolve_commit(repo, revision)
    names = [file.path for file in snapshot(repo, commit).files]
    if CONFIG not in names:
        message = f"{repo}@{revision} has no {CONFIG}"
        raise HubNotFoundError(message, hint="give the repository of the model itself")
    weights = [name for name in names if name.endswith(".safetensors")]
    with hub_errors(repo, revision), ThreadPoolExecutor(_AT_ONCE) as pool:
        header: Callable[[str], int] = partial(_header_bytes, repo, commit)
        sizes = list(pool.map(header, weights))
        return RemoteModel(
            repo=repo,
            commit=commit,
            config=read_json(repo, commit, CONFIG),
            quantization=read_json(repo, commit, QUANT_CONFIG) if QUANT_CONFIG in names else None,
            tensor_bytes=sum(sizes) if weights else None,
        )


def _header_bytes(repo: str, commit: str, name: str) -> int:
    """Add up the tensors of one file. Only its beginning is fetched."""
    try:
        header = HfApi().parse_safetensors_file_metadata(repo, name, revision=commit)
    except SafetensorsParsingError as error:
        message = f"{repo}@{commit}: {name} does not begin like a safetensors file"
        raise CheckpointError(message) from error
    return sum(tensor.data_offsets[1] - tensor.data_offsets[0] for tensor in header.tensors.values())


def read_json(repo: str, commit: str, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """Fetch a small JSON file. The caller translates the client's errors with `hub_words`.

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
