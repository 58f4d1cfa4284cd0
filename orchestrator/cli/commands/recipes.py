"""List the recipes."""

from __future__ import annotations

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import print_json, print_table
from orchestrator.recipe.model import Recipe


@click.command("recipes")
@json_option
@click.pass_obj
def command(settings: Settings, as_json: bool) -> None:
    """List the recipes."""
    found = [settings.book.load(name).recipe for name in settings.book.names]
    if as_json:
        print_json([_fields(recipe) for recipe in found])
        return
    heads = ("recipe", "format", "method", "backend", "target", "image", "note")
    print_table(heads, [tuple(_fields(recipe)[head] for head in ("name", *heads[1:])) for recipe in found])


def _fields(recipe: Recipe) -> dict[str, str]:
    note = f"refused: {', '.join(recipe.expected_refusals)}" if recipe.expected_refusals else ""
    return {
        "name": recipe.name,
        "description": recipe.description,
        "architecture": recipe.model.architecture,
        "format": recipe.quantization.format,
        "method": recipe.quantization.method,
        "backend": recipe.backend,
        "target": recipe.target,
        "image": recipe.image,
        "note": note,
    }
