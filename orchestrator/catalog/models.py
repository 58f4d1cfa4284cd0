"""Sizes of well-known models, from a data file: what a plan can say before anything is downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_FILE = "models.json"


@dataclass(frozen=True)
class ModelEntry:
    """What the catalogue knows of one repository on the Hub."""

    config: Mapping[str, Any]
    """Its config.json, as far as sizes follow from it."""
    quantization: Mapping[str, Any] | None
    """What it declares to be quantized: `quantization` of hf_quant_config.json, or `quantization_config`."""
    format: str | None
    """The format of its weights, where it is known but not what stays as it is; None: as trained, or declared."""
    source: str
    """Where the config was read."""


def find_model(repo: str) -> ModelEntry | None:
    """Look up a repository; None where the catalogue does not know it."""
    document = _document()
    entry = document["repos"].get(repo)
    if entry is None:
        return None
    known = document["configs"][entry["config"]]
    return ModelEntry(known["config"], entry.get("quantization"), entry.get("format"), known["source"])


def known_repos() -> tuple[str, ...]:
    """Name every repository that the catalogue knows."""
    return tuple(_document()["repos"])


@cache
def _document() -> dict[str, Any]:
    text = files("orchestrator.catalog").joinpath(_FILE).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
