"""Generates the JSON Schema of a document for editors from its types."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core.core_schema import ModelSchema


class _Described(GenerateJsonSchema):
    """Describes each key by the docstring under it in its class.

    pydantic can do that (`use_attribute_docstrings`), but when a class is created, so that each start of the command
    would read and parse the sources.
    """

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        result = super().model_schema(schema)
        for name, text in _descriptions(schema["cls"]).items():
            if name in result.get("properties", {}):
                result["properties"][name].setdefault("description", text)
        return result


def described_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a document, every key with its description."""
    return kind.model_json_schema(schema_generator=_Described)


def as_text(schema: Mapping[str, Any], title: str) -> str:
    """Return a schema as the text of a file."""
    named = {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return json.dumps(named, indent=2, ensure_ascii=False) + "\n"


def is_current(file: Path, text: str) -> bool:
    """Tell whether a schema file has the text of its types."""
    return file.is_file() and file.read_text(encoding="utf-8") == text


def _descriptions(kind: type) -> dict[str, str]:
    """Find the docstring under each key of a class and its bases."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not one.__module__.startswith(f"{__package__.partition('.')[0]}."):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(node, ast.ClassDef)  # noqa: S101 - the source of a class
        for key, text in zip(node.body, node.body[1:], strict=False):
            match key, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = inspect.cleandoc(words)
                case _:  # no key with a text under it
                    pass
    return found
