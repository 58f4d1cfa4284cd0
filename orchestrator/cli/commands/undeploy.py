"""Stop the server of a recipe."""

from __future__ import annotations

import click

from orchestrator.cli.compose import compose
from orchestrator.cli.options import recipe_argument
from orchestrator.cli.settings import Settings


@click.command("undeploy")
@recipe_argument
@click.pass_obj
def command(settings: Settings, recipe: str) -> None:
    """Stop the server of dist/RECIPE and remove its containers; the files stay."""
    compose(settings, recipe, "down")
    click.echo(f"{recipe} is down")
