"""A recipe that works, and a way to change one thing about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.recipe.model import Recipe

Change = Callable[..., Recipe]
ROOT = Path(__file__).resolve().parents[3]

HEALTHY: Mapping[str, Any] = {
    "schema_version": 1,
    "name": "healthy",
    "description": "Works on a Spark",
    "model": {
        "repo": "example/model",
        "license": "mit",
        "architecture": "LlamaForCausalLM",
        "parameters": 8e9,
    },
    "target": "dgx-spark",
    "image": "tensorrt-llm-1.2.1",
    "quantization": {"format": "nvfp4", "method": "none"},
}


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return Catalog(Project(ROOT))


@pytest.fixture(scope="session")
def changed() -> Change:
    """Give the healthy recipe with values at dotted paths (`serve__port`) replaced."""

    def change(edits: Mapping[str, object] | None = None) -> Recipe:
        data: dict[str, Any] = {
            key: dict(value) if isinstance(value, Mapping) else value for key, value in HEALTHY.items()
        }
        for path, value in (edits or {}).items():
            *parents, last = path.split(".")
            place = data
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        return Recipe.model_validate(data)

    return change
