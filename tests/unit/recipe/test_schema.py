"""The JSON Schema of recipes: current, valid, and true for every recipe that is shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.documents.files import read_document
from orchestrator.documents.schema import is_current
from orchestrator.errors import RecipeUnknownError
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.schema import schema_text

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
SCHEMA: dict[str, Any] = json.loads(schema_text())
BOOK = RecipeBook(RECIPES)


def validate(data: object) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(data)


def test_the_shipped_schema_is_current() -> None:
    assert is_current(RECIPES / "recipe.schema.json", schema_text())


def test_a_schema_that_is_missing_or_old_is_not_current(tmp_path: Path) -> None:
    assert not is_current(tmp_path / "none.json", schema_text())
    (tmp_path / "old.json").write_text("{}")
    assert not is_current(tmp_path / "old.json", schema_text())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", BOOK.names)
def test_a_shipped_recipe_fits_the_schema_as_it_is_written(name: str) -> None:
    validate(read_document(RECIPES / f"{name}.yaml", RecipeUnknownError).data)


@pytest.mark.parametrize("name", BOOK.names)
def test_a_shipped_recipe_fits_the_schema_with_what_it_extends(name: str) -> None:
    recipe = BOOK.load(name).recipe
    validate(recipe.model_dump(mode="json"))


@pytest.mark.parametrize(
    "change",
    [
        {"quantisation": {}},
        {"name": "Not A Name"},
        {"serve": {"port": "8000"}},
        {"quantization": {"format": "fp9", "method": "none"}},
        {"schema_version": 2},
    ],
)
def test_the_schema_refuses_what_the_types_refuse(change: dict[str, object]) -> None:
    good = BOOK.load("tiny-llama-w4a16-nvfp4").recipe.model_dump(mode="json")
    with pytest.raises(jsonschema.ValidationError):
        validate({**good, **change})
