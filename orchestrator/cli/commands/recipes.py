"""Lists the recipes with their size and speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

import click

from orchestrator.app.settings import Settings
from orchestrator.app.shadows import Shadow
from orchestrator.cli.options import json_option
from orchestrator.cli.text import print_json, print_table
from orchestrator.errors import OrchestratorError
from orchestrator.pages.rows import NOTHING, short
from orchestrator.planner.summary import Summary, summary_of
from orchestrator.planner.verdict import Verdict
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.recipe.model import Format, Recipe

_HEADS = ("recipe", "fits", "size", "tok/s", "format", "target", "method", "reason")
_NUMBERS = (2, 3)
_LEAST = (7, 6, 5, 4)
"""The columns that a narrow terminal omits, the least important first."""
_FITS: dict[Verdict, str] = {
    "fits": "yes",
    "fits, with these limits": "limits",
    "does not fit": "no",
    "not supported": "refused",
}


@dataclass(frozen=True)
class _Listed:
    """A readable recipe."""

    loaded: LoadedRecipe
    summary: Summary

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def shadows(self) -> bool:
        """Whether it replaces a recipe of the tool."""
        return self.loaded.file in self.loaded.shadows


@dataclass(frozen=True)
class _Broken:
    """A file that is not a valid recipe."""

    name: str
    error: OrchestratorError


@dataclass(frozen=True)
class _Wanted:
    """The recipes to list."""

    text: str
    model: str
    format: Format | None
    target: str | None
    fits: bool

    def takes(self, recipe: Recipe) -> bool:
        """Tell whether a recipe's text matches."""
        said = f"{recipe.name} {recipe.description} {_model_of(recipe)}".lower()
        return (
            all(word in said for word in self.text.lower().split())
            and self.model.lower() in f"{_model_of(recipe)} {recipe.model.architecture}".lower()
            and self.format in (None, recipe.quantization.format)
            and self.target in (None, recipe.target)
        )


@click.command("recipes")
@click.argument("text", default="")
@click.option("--model", default="", metavar="TEXT", help="Only of this model: a part of its repository or class.")
@click.option("--format", "format_name", type=click.Choice(get_args(Format)), help="Only in this format.")
@click.option("--target", metavar="NAME", help="Only for this target.")
@click.option("--fits", is_flag=True, help="Only what works on its target.")
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
    if target is not None:
        settings.catalog.target(target)  # raises with the nearest names
    wanted = _Wanted(text, model, format_name, target, fits)
    entries = list(_entries(settings, wanted))
    if as_json:
        print_json([_document(entry) for entry in entries])
    else:
        _show(entries, among=len(settings.book.names))
    ctx.exit(max((entry.error.exit_status for entry in entries if isinstance(entry, _Broken)), default=0))


def _entries(settings: Settings, wanted: _Wanted) -> Iterator[_Listed | _Broken]:
    for name in settings.book.names:
        try:
            loaded = settings.book.load(name)
            if wanted.takes(loaded.recipe):
                summary = summary_of(loaded.recipe, settings.catalog)
                if not (wanted.fits and summary.refused):
                    yield _Listed(loaded, summary)
        except OrchestratorError as error:
            yield _Broken(name, error)


def _show(entries: list[_Listed | _Broken], *, among: int) -> None:
    listed = [entry for entry in entries if isinstance(entry, _Listed)]
    if listed:
        left_out = print_table(_HEADS, map(_cells, listed), right=_NUMBERS, least=_LEAST)
        if left_out:
            click.echo(f"\nnot shown, the terminal is too narrow: {', '.join(left_out)}")
    else:
        click.echo(f"none of {among} recipes is like that")
    for found in listed:
        if found.shadows:
            click.echo(str(Shadow("recipe", found.recipe.name, found.loaded.file)))
    for entry in entries:
        if isinstance(entry, _Broken):
            first = (entry.error.message.splitlines() or [""])[0]
            click.echo(f"{entry.name}: error[{entry.error.code}]: {first}", err=True)


def _cells(entry: _Listed) -> tuple[str, ...]:
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


def _document(entry: _Listed | _Broken) -> dict[str, Any]:
    if isinstance(entry, _Broken):
        error = entry.error
        return {"name": entry.name, "error": {"code": error.code, "message": error.message, "hint": error.hint}}
    recipe, summary = entry.recipe, entry.summary
    return {
        "name": recipe.name,
        "description": recipe.description,
        "model": _model_of(recipe),
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


def _model_of(recipe: Recipe) -> str:
    """Return a model's name as its recipe writes it."""
    return getattr(recipe.model, "repo", None) or getattr(recipe.model, "path", None) or "made from a seed"
