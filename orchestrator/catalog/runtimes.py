"""Reads which models the runtime and the transformers of an image know, from a dated data file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from orchestrator.catalog.image import Image, RuntimeName
from orchestrator.values import frozen

_FILE = "runtimes.json"


@frozen
class ClassList:
    """The model classes of a version of a runtime."""

    what: str
    """The version or commit that it was read from."""
    read: str
    """The day it was read (`2026-11-27`)."""
    served: frozenset[str]
    """Architectures that it serves: TensorRT-LLM those of its PyTorch backend."""
    autodeploy: frozenset[str]
    """Architectures that it documents for its AutoDeploy backend only."""


@frozen
class ModelTypes:
    """The `model_type`s of config.json that a version of transformers, or TensorRT-LLM itself, can read."""

    version: str
    """The version of transformers."""
    read: str
    """The day it was read."""
    names: frozenset[str]


@frozen
class Software:
    """The software of one version of a runtime."""

    classes: ClassList
    model_types: ModelTypes | None
    """None: not read."""


@frozen
class Unserved:
    """An architecture that no version serves."""

    why: str
    instead: str
    """What to use instead."""


def software_of(image: Image) -> Software | None:
    """Look up the runtime of an image; None if the data file does not have its version."""
    return _READERS[image.runtime](image)


def unserved(runtime: RuntimeName = "tensorrt_llm") -> Mapping[str, Unserved]:
    """Return the architectures that no version of a runtime serves."""
    entries = _document()["refused"].get(runtime, {})
    return {name: Unserved(entry["why"], entry["instead"]) for name, entry in entries.items()}


def _tensorrt_llm(image: Image) -> Software | None:
    document = _document()
    entry = document["versions"].get(image.version)
    if entry is None:
        return None
    found, types = document["lists"][entry["classes"]], document["transformers"][entry["transformers"]]
    own = document["own_model_types"]["model_types"]
    classes = ClassList(found["what"], found["read"], frozenset(found["pytorch"]), frozenset(found["autodeploy"]))
    return Software(classes, ModelTypes(entry["transformers"], types["read"], frozenset((*types["model_types"], *own))))


def _vllm(image: Image) -> Software | None:
    part = _document()["vllm"]
    name = part["versions"].get(image.version)
    if name is None:
        return None
    found = part["lists"][name]
    return Software(ClassList(found["what"], found["read"], frozenset(found["served"]), frozenset()), None)


def _edge_llm(image: Image) -> Software | None:
    """It serves what it builds engines of, which is with the image."""
    part = _document()["edge_llm"]["versions"].get(image.version)
    if part is None:
        return None
    return Software(ClassList(part["what"], part["read"], frozenset(image.engine_families), frozenset()), None)


_READERS: Mapping[RuntimeName, Callable[[Image], Software | None]] = {
    "tensorrt_llm": _tensorrt_llm,
    "vllm": _vllm,
    "edge_llm": _edge_llm,
}


@cache
def _document() -> dict[str, Any]:
    text = files("orchestrator.catalog").joinpath(_FILE).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
