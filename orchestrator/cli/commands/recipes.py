"""Lists the recipes with their size and speed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import click

from orchestrator.app.recipe_list import BrokenRecipe, ListedRecipe, RecipeFilter, list_recipes, model_name
from orchestrator.app.settings import Settings
from orchestrator.app.shadows import Shadow
from orchestrator.cli.options import json_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json
from orchestrator.pages.cells import NOTHING, short
from orchestrator.planner.verdict import Verdict
from orchestrator.recipe.model import Format

_HEADS = ("recipe", "fits", "size", "tok/s", "format", "target", "method", "reason")
_NUMBERS = (2, 3)
_LEAST = (7, 6, 5, 4, 2)
"""The columns that a narrow terminal omits, the least important first."""
_FITS: dict[Verdict, str] = {
    "fits": "yes",
    "fits, with these limits": "limits",
    "may not fit": "maybe",
    "does not fit": "no",
    "not supported": "refused",
}


@click.command("recipes")
@click.argument("text", default="")
@click.option(
    "--model", default="", metavar="TEXT", help="Only recipes of this model: a part of its repository or architecture."
)
@click.option("--format", "format_name", type=click.Choice(get_args(Format)), help="Only recipes in this format.")
@click.option("--target", metavar="NAME", help="Only recipes for this target.")
@click.option("--fits", is_flag=True, help="Only recipes that fit their target.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, text: str, model: str, format_name: Format | None, target: str | None, fits: bool, as_json: bool
) -> None:
    """List the recipes, or those that TEXT describes: words of the name, the description or the model.

    Size is the weights in memory. Speed is that of one request, predicted as by `plan`. A file that is not a valid
    recipe takes one line, and the exit status is that of its error.
    """
    settings: Settings = ctx.obj
    entries = list_recipes(settings, RecipeFilter(text, model, format_name, target, fits))
    if as_json:
        print_json([_document(entry) for entry in entries])
    else:
        _show(entries, among=len(settings.book.names))
    ctx.exit(max((entry.error.exit_status for entry in entries if isinstance(entry, BrokenRecipe)), default=0))


def _show(entries: list[ListedRecipe | BrokenRecipe], *, among: int) -> None:
    listed = [entry for entry in entries if isinstance(entry, ListedRecipe)]
    if listed:
        left_out = print_table(_HEADS, map(_cells, listed), right=_NUMBERS, least=_LEAST)
        if left_out:
            click.echo(f"\nnot shown, the terminal is too narrow: {', '.join(left_out)}")
    else:
        click.echo(f"none of {among} recipes matches")
    for found in listed:
        if found.shadows:
            click.echo(str(Shadow("recipe", found.recipe.name, found.loaded.file)))
    for entry in entries:
        if isinstance(entry, BrokenRecipe):
            first = (entry.error.message.splitlines() or [""])[0]
            click.echo(f"{entry.name}: error[{entry.error.code}]: {first}", err=True)


def _cells(entry: ListedRecipe) -> tuple[str, ...]:
    recipe, summary = entry.recipe, entry.summary
    return (
        recipe.name,
        _FITS[summary.verdict],
        str(summary.weights),
        short(summary.decode.value) if summary.decode else NOTHING,
        recipe.quantization.format,
        recipe.target,
        recipe.quantization.method,
        ", ".join(summary.refused),
    )


def _document(entry: ListedRecipe | BrokenRecipe) -> dict[str, Any]:
    if isinstance(entry, BrokenRecipe):
        error = entry.error
        return {"name": entry.name, "error": {"code": error.code, "message": error.message, "hint": error.hint}}
    recipe, summary = entry.recipe, entry.summary
    return {
        "name": recipe.name,
        "description": recipe.description,
        "model": model_name(recipe),
        "architecture": recipe.model.architecture,
        "format": recipe.quantization.format,
        "method": recipe.quantization.method,
        "backend": recipe.backend,
        "target": recipe.target,
        "image": recipe.image,
        "works": not summary.refused,
        "verdict": summary.verdict,
        "refusals": list(summary.refused),
        "weights": asdict(summary.weights),
        "decode": asdict(summary.decode) if summary.decode else None,
        "file": str(entry.loaded.file),
        "shadows": entry.shadows,
    }
