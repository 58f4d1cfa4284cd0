"""The JSON Schema of recipes, for editors; generated from the types, with a check that the file is current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.recipe.model import Recipe


def schema_text() -> str:
    """Render the schema, with the one key that only the loader knows."""
    schema: dict[str, Any] = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "orchestrator recipe"
    extends = {"type": "string", "description": "The recipe or base (recipes/bases/) that this one builds on."}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    # A recipe that extends another may leave out whatever the other one says.
    schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def is_current(file: Path) -> bool:
    """Tell whether a schema file says what the types say now."""
    return file.is_file() and file.read_text(encoding="utf-8") == schema_text()
