"""Defines revisions and file patterns of repositories, without the Hub's client, which loads too slowly for a plan."""

from __future__ import annotations

import re
from typing import Literal

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
"""Files of a checkpoint, without those that can carry code (`.bin`, `.pt`, `.py`)."""


def is_commit(revision: str) -> bool:
    """Tell a commit from a branch or tag."""
    return bool(re.fullmatch("[0-9a-f]{40}", revision))
