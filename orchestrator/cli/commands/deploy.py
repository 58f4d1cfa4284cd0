"""Start the server of a built recipe."""

from __future__ import annotations

import click

from orchestrator.cli.compose import compose
from orchestrator.cli.options import recipe_argument
from orchestrator.cli.settings import Settings


@click.command("deploy")
@recipe_argument
@click.pass_obj
def command(settings: Settings, recipe: str) -> None:
    """Start the server of dist/RECIPE with Docker Compose."""
    folder = compose(settings, recipe, "up", "--detach", "--wait")
    click.echo(f"{recipe} is up; how to ask it: {folder}/README.md; stop it with: orchestrator undeploy {recipe}")
