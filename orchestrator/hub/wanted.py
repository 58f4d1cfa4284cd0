"""Which revision and files of a repository are wanted; apart from the Hub's client, which a plan cannot wait for."""

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
"""What a checkpoint needs; nothing that can carry code (`.bin`, `.pt`, `.py`)."""

DUPLICATES = ("original/*", "metal/*", "consolidated*.safetensors", "onnx/*")
"""The same weights once more in another layout."""


def is_commit(revision: str) -> bool:
    """Tell a commit from a branch or tag."""
    return bool(re.fullmatch("[0-9a-f]{40}", revision))
