"""Checks recipes without building them."""

from __future__ import annotations

import click

from orchestrator.app.planning import plan, unexpected_refusals
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.error_view import show_error
from orchestrator.cli.options import RecipeParameter, complete_recipe, json_option, set_option
from orchestrator.cli.text import print_json
from orchestrator.errors import OrchestratorError, Refusal


@click.command("validate")
@click.argument("recipes", nargs=-1, type=RecipeParameter(), shell_complete=complete_recipe)
@set_option
@json_option
@click.pass_context
def command(ctx: click.Context, recipes: tuple[RecipeName, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPES (all of them, if none is named): their text, and what their image and target can do.

    A recipe that demonstrates a refusal (`expected_refusals`) is valid while exactly that refusal occurs.
    """
    settings: Settings = ctx.obj
    worst = 0
    results = []
    for recipe in recipes or map(RecipeName, settings.book.names):
        try:
            unexpected = unexpected_refusals(plan(settings.at(recipe), recipe, overrides).plan)
        except OrchestratorError as error:
            worst = max(worst, error.exit_status)
            results.append({"recipe": recipe.name, "valid": False, "code": error.code, "message": error.message})
            if not as_json:
                click.echo(f"✗ {recipe.name}")
                show_error(error)
            continue
        worst = max(worst, 4 if unexpected else 0)
        results.append(
            {"recipe": recipe.name, "valid": not unexpected, "refusals": [vars(refusal) for refusal in unexpected]}
        )
        if not as_json:
            _show(recipe.name, unexpected)
    if as_json:
        print_json(results)
    ctx.exit(worst)


def _show(name: str, unexpected: tuple[Refusal, ...]) -> None:
    click.echo(f"{'✗' if unexpected else '✓'} {name}")
    for refusal in unexpected:
        click.echo(f"    {refusal.code}: {refusal.message}\n    → {refusal.hint}")
