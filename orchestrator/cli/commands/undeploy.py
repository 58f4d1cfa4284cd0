"""Stops and removes the server of a recipe."""

from __future__ import annotations

from contextlib import closing

import click

from orchestrator.app.named import Named
from orchestrator.app.settings import Settings
from orchestrator.cli.options import recipe_argument
from orchestrator.deployment.container import FOLDER
from orchestrator.deployment.made import containers, take_down
from orchestrator.deployment.record import forget, lock_of
from orchestrator.executors.docker_client import connect


@click.command("undeploy")
@recipe_argument
@click.option("--volumes", is_flag=True, help="Also remove what the servers keep: compiled kernels, figures, chats.")
@click.pass_obj
def command(settings: Settings, recipe: Named, volumes: bool) -> None:
    """Stop the server of dist/RECIPE and remove what `deploy` created in Docker, and nothing else.

    Containers, the network and the built image are removed. The bundle, pulled or loaded images, and volumes stay.
    """
    folder = settings.dist / recipe.name
    waits = "waiting: another command works on this deployment"
    locked = settings.store.lock(lock_of(recipe.name), lambda: click.echo(waits, err=True))
    with closing(connect()) as client, locked:
        removed = 0
        for what in take_down(client, recipe.name, folder, volumes=volumes):
            click.echo(f"removed {what}")
            removed += 1
        forget(settings.store.root, recipe.name)
        if not removed:
            click.echo(f"{recipe.name} is not deployed from {folder}")
            for container in containers(client, recipe.name):
                click.echo(f"{container.name} is from {container.labels[FOLDER]}: see --dist", err=True)
