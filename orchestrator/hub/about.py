"""Reads what the Hub shows of a model before a download: its card, access and size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import HubNotFoundError
from orchestrator.hub import calls
from orchestrator.models.files import CONFIG, QUANT_CONFIG
from orchestrator.models.weight_files import INDEX, kind_of_weights, own_weights
from orchestrator.values import frozen


@frozen
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
    card = calls.model_card(repo, revision)
    _require_model(card.names, f"{repo}@{revision}")
    return About(
        repo=repo,
        commit=card.commit,
        license=card.license,
        gated=card.gated,
        counted=card.counted,
        public=card.config,
        quantized=QUANT_CONFIG in card.names or "quantization_config" in card.config,
    )


def _require_model(names: frozenset[str], where: str) -> None:
    has_weights = INDEX in names or bool(own_weights(names, dict, where))
    if has_weights and CONFIG in names:
        return
    has, hint = ("weights only", "name the repository of the model itself") if has_weights else kind_of_weights(names)
    message = f"{where} has no {CONFIG} with weights in safetensors; it has {has}"
    raise HubNotFoundError(message, hint=hint)
