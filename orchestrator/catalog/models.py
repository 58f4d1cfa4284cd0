"""Reads sizes of well-known models from a data file, for plans before any download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from orchestrator.values import frozen

_FILE = "models.json"


@frozen
class ModelEntry:
    """What the catalogue knows of one repository on the Hub."""

    config: Mapping[str, Any]
    """The part of its config.json that decides its sizes."""
    quantization: Mapping[str, Any] | None
    """Its declared quantization: `quantization` of hf_quant_config.json, or `quantization_config`."""
    format: str | None
    """The format of its weights, if its exclusions are not known; None: unquantized, or declared."""
    source: str
    """The source of the config."""


def find_model(repo: str) -> ModelEntry | None:
    """Look up a repository; None if the catalogue does not have it."""
    document = _document()
    entry = document["repos"].get(repo)
    if entry is None:
        return None
    known = document["configs"][entry["config"]]
    return ModelEntry(known["config"], entry.get("quantization"), entry.get("format"), known["source"])


def known_repos() -> tuple[str, ...]:
    """List every repository of the catalogue."""
    return tuple(_document()["repos"])


@cache
def _document() -> dict[str, Any]:
    text = files("orchestrator.catalog").joinpath(_FILE).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
