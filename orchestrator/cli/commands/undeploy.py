"""Stops and removes the server of a recipe."""

from __future__ import annotations

import click

from orchestrator.app.deploying import other_deployments, undeploy
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.options import recipe_argument


@click.command("undeploy")
@recipe_argument
@click.option("--volumes", is_flag=True, help="Also remove the volumes: compiled kernels, metrics, chats.")
@click.pass_obj
def command(settings: Settings, recipe: RecipeName, volumes: bool) -> None:
    """Stop the server of dist/RECIPE and remove what `deploy` created in Docker, and nothing else.

    Containers, the network and the built image are removed. The bundle, pulled or loaded images, and volumes stay.
    """
    waits = "waiting: another command works on this deployment"
    removed = 0
    for what in undeploy(settings, recipe, lambda: click.echo(waits, err=True), volumes=volumes):
        click.echo(f"removed {what}")
        removed += 1
    if not removed:
        click.echo(f"{recipe.name} is not deployed from {settings.dist / recipe.name}")
        for name, folder in other_deployments(recipe):
            click.echo(f"{name} is from {folder}: see --dist", err=True)
