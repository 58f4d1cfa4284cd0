"""Reads what the Hub shows of a model before a download: its card, access and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, ModelInfo

from orchestrator.errors import HubError, HubNotFoundError
from orchestrator.hub.errors import hub_errors
from orchestrator.hub.patterns import is_commit
from orchestrator.hub.retry import retried
from orchestrator.models.files import CONFIG, QUANT_CONFIG


@dataclass(frozen=True)
class About:
    """The Hub's answers about one model."""

    repo: str
    commit: str
    license: str | None
    """The licence's short name, or the name in the card; None if the card has none."""
    gated: bool
    """Its owner must grant access before files can be downloaded."""
    counted: int | None
    """Number of values in its safetensors files, as the Hub counts them. A packed byte counts as one."""
    public: Mapping[str, Any]
    """What the Hub shows of config.json to everybody."""
    quantized: bool
    """Whether a file declares a quantization, as far as the Hub shows it."""


def about(repo: str, revision: str = "main") -> About:
    """Ask the Hub about a model.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit.

    Raises:
        HubError: One of its kinds; `HubNotFoundError` also if there are no weights in safetensors.
    """
    with hub_errors(repo, revision):
        info = retried(lambda: HfApi().model_info(repo, revision=revision))
    commit = info.sha
    if not commit or not is_commit(commit):
        message = f"{repo}@{revision}: the Hub names no commit"
        raise HubError(message, hint="try again later")
    names = {file.rfilename for file in info.siblings or ()}
    if not any(name.endswith(".safetensors") for name in names) or CONFIG not in names:
        message = f"{repo}@{revision} has no {CONFIG} with weights in safetensors"
        raise HubNotFoundError(message, hint="name the repository of the model itself, not of GGUF or adapter files")
    public = info.config or {}
    return About(
        repo=repo,
        commit=commit,
        license=_license(info),
        gated=bool(info.gated),
        counted=info.safetensors.total if info.safetensors else None,
        public=public,
        quantized=QUANT_CONFIG in names or "quantization_config" in public,
    )


def _license(info: ModelInfo) -> str | None:
    """Read the licence of a model card. A licence without a short name is called `other` and has a name."""
    card = info.card_data
    short, name = getattr(card, "license", None), getattr(card, "license_name", None)
    return str(name) if short in (None, "other") and name else short if isinstance(short, str) else None
