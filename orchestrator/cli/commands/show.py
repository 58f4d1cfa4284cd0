"""Shows a recipe with the source of each value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.app.shadows import shadows_of
from orchestrator.cli.options import json_option, recipe_argument, set_option
from orchestrator.cli.text import print_json
from orchestrator.documents.yaml_text import KeyPath


@click.command("show")
@recipe_argument
@set_option
@json_option
@click.pass_obj
def command(settings: Settings, recipe: RecipeName, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show the complete RECIPE with the source of each value."""
    loaded = settings.load(recipe, overrides)
    shadows = shadows_of(settings, loaded)
    values: dict[str, Any] = loaded.recipe.model_dump(mode="json")
    if as_json:
        origins = {_dotted(path): where for path, where in loaded.origins.items()}
        print_json({"recipe": values, "origins": origins, "shadows": [shadow.document() for shadow in shadows]})
        return
    for shadow in shadows:
        click.echo(f"# {shadow}")
    lines = list(_lines(values, (), loaded.origins))
    width = max(len(line) for line, _ in lines)
    for line, origin in lines:
        click.echo(f"{line:{min(width, 72)}}  # {origin}" if origin else line)


def _lines(values: Mapping[str, Any], path: KeyPath, origins: Mapping[KeyPath, str]) -> Iterator[tuple[str, str]]:
    indent = "  " * len(path)
    for key, value in values.items():
        place = (*path, key)
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:", ""
            yield from _lines(value, place, origins)
        else:
            yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}", _origin(place, origins)


def _origin(place: KeyPath, origins: Mapping[KeyPath, str]) -> str:
    """Find the file that set a value. A list counts as set where its first item is set."""
    for path, where in origins.items():
        if path[: len(place)] == place:
            return where
    return "default"


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
