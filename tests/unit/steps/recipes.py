"""Recipes for the tests of the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.executors.job import Argument, Inside
from orchestrator.recipe.model import Recipe
from orchestrator.steps.registry import build_steps
from orchestrator.steps.step import Step

ROOT = Path(__file__).resolve().parents[3]
CATALOG = Catalog(Project(ROOT))
HUB: dict[str, Any] = {
    "repo": "owner/model",
    "license": "apache-2.0",
    "architecture": "LlamaForCausalLM",
    "parameters": 8e9,
}
DRAFT: dict[str, Any] = {**HUB, "repo": "owner/draft"}


def recipe(**changes: Any) -> Recipe:  # noqa: ANN401 - any field of a recipe
    """Make a recipe for a Spark: a model of the Hub as it is, served by PyTorch."""
    fields: dict[str, Any] = {
        "schema_version": 1,
        "name": "example",
        "description": "An example.",
        "model": HUB,
        "target": "dgx-spark",
        "image": "tensorrt-llm-1.2.1",
        "quantization": {"format": "bf16", "method": "none"},
    }
    return Recipe.model_validate(fields | changes)


def steps(**changes: Any) -> dict[str, Step]:  # noqa: ANN401 - any field of a recipe
    """Declare the steps of such a recipe, by name."""
    return {step.name: step for step in build_steps(recipe(**changes), CATALOG)}


def words(arguments: tuple[Argument, ...]) -> tuple[str, ...]:
    """Write places as a container sees them."""
    return tuple(
        str(Path(argument.target) / argument.path) if isinstance(argument, Inside) else argument
        for argument in arguments
    )


def value(arguments: tuple[Argument, ...], option: str) -> str:
    """Give the value of an option that is given exactly once."""
    line = words(arguments)
    assert line.count(option) == 1, (option, line)
    return line[line.index(option) + 1]
