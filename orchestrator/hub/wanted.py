"""Which files of a repository are wanted; apart from the Hub's client, which a plan has no time to load."""

from __future__ import annotations

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
