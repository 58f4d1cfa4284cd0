"""Follows a build that another process runs."""

from __future__ import annotations

import click

from orchestrator.app.cluster_chains import chains_of, follow_chain
from orchestrator.app.cluster_jobs import Chain
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import Ended, Record, error_of, follow
from orchestrator.app.settings import Settings
from orchestrator.cli.build_view import BuildView
from orchestrator.cli.options import not_built, recipe_argument
from orchestrator.cli.text import program
from orchestrator.errors import StepKilledError


@click.command("attach")
@recipe_argument
@click.pass_context
def command(ctx: click.Context, recipe: RecipeName) -> None:
    """Follow the running build of RECIPE, or show how its newest build ended. Ends with the exit status of the build.

    Ctrl-C leaves the build running.
    """
    settings: Settings = ctx.obj
    if chains := chains_of(settings, recipe.name):
        _follow_jobs(settings, recipe, chains)
        return
    record = Record.read(settings.store.root, recipe.name)
    if record is None:
        raise not_built(settings, recipe)
    try:
        ended = _show(record)
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # SIGTERM
            raise
        click.echo(f"the build continues; follow it again: {program()} attach {recipe}", err=True)
        return
    if ended is None:
        message = f"the build of {recipe.name} (process {record.process}) was killed"
        raise StepKilledError(message, hint=f"{program()} build {recipe} continues it")
    if ended.code:
        raise error_of(ended)
    if ended.status:
        click.echo("interrupted; finished steps are kept", err=True)
        ctx.exit(ended.status)
    click.echo(f"{recipe.name} is built")


def _follow_jobs(settings: Settings, recipe: RecipeName, chains: tuple[Chain, ...]) -> None:
    try:
        with BuildView() as view:
            for chain in chains:
                follow_chain(settings, chain, view)
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # SIGTERM
            raise
        click.echo(f"the jobs continue; follow them again: {program()} attach {recipe}", err=True)
        return
    click.echo(f"the jobs of {recipe.name} have ended; to write the deployment: {program()} build {recipe}")


def _show(record: Record) -> Ended | None:
    with BuildView() as view:
        for event in follow(record):
            if isinstance(event, Ended):
                return event
            view(event)
    return None
