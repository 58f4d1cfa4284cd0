"""Generates the JSON Schema of recipes for editors."""

from __future__ import annotations

from typing import Any

from orchestrator.documents.schema import as_text, described_schema
from orchestrator.recipe.model import Recipe


def recipe_schema() -> dict[str, Any]:
    """Return the schema of a complete recipe, every key with its description."""
    return described_schema(Recipe)


def schema_text() -> str:
    """Return the schema as text, with the one key that only the loader reads."""
    schema = recipe_schema()
    extends = {"type": "string", "description": "The recipe or base (recipes/bases/) that this one builds on."}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    # A recipe that extends another may leave out all that the other one has.
    schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]
    return as_text(schema, "orchestrator recipe")
