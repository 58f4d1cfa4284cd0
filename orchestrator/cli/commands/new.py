"""Writes a recipe for a model: its parameters, the format that suits the target, and the reasons."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click

from orchestrator.app.forecast import forecast
from orchestrator.app.new_recipe import write_recipe
from orchestrator.app.planning import plan_with_lock
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.commands.plan import plan_document, show_plan
from orchestrator.cli.options import PageFile, json_option
from orchestrator.cli.text import print_json
from orchestrator.recipe.model import Format, Recipe
from orchestrator.recipe.names import NAME_PATTERN


@click.command("new")
@click.argument("model")
@click.option(
    "--format", "wanted", type=click.Choice([name for name in get_args(Format) if name != "auto"]),
    help="The format of the weights. Default: the one that `compare` recommends.",
)  # fmt: skip
@click.option("--target", "target_name", default="dgx-spark", show_default=True, help="The machine that serves.")
@click.option("--revision", default="main", show_default=True, help="On the Hub: branch, tag or commit.")
@click.option(
    "-o", "--output", type=PageFile(), metavar="FILE",
    help="The file to write. Default: <model>-<format>.yaml in recipes/ if that exists, else in the working folder.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@json_option
@click.pass_obj
def command(
    settings: Settings,
    model: str,
    wanted: Format | None,
    target_name: str,
    revision: str,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a recipe for MODEL: OWNER/NAME on the Hub, a folder, or a config.json; then print its plan.

    No weights are downloaded. Nothing is written if the model's class is not known, or if it cannot work on the
    target. The reason is printed as `plan` prints it.
    """
    if output is not None:
        _check_name(output)
    recipe, file = write_recipe(
        settings, model, wanted=wanted, target_name=target_name, revision=revision, output=output, force=force
    )
    _show(settings, recipe, file, as_json=as_json)


def _check_name(file: Path) -> None:
    """Refuse a file name that cannot be a recipe's name."""
    if file.suffix != ".yaml" or not re.fullmatch(NAME_PATTERN.strip("^$"), file.stem):
        message = (
            f"{file.name} is not a valid recipe name: use lower-case letters, digits, `.`, `_` and `-`, then .yaml"
        )
        raise click.BadParameter(message, param_hint="--output")


def _show(settings: Settings, recipe: Recipe, file: Path, *, as_json: bool) -> None:
    """Print the recipe's path and its plan."""
    plan = plan_with_lock(settings, recipe, None, None)
    steps = forecast(plan, settings.store, Path("WORK"))
    if as_json:
        print_json({"file": str(file), **plan_document(plan, steps)})
        return
    click.echo(f"wrote {file}\n")
    known = file.resolve().parent == settings.project.recipes.resolve()
    show_plan(plan, steps, RecipeName(recipe.name) if known else RecipeName.parse(str(file)), verbose=False)
