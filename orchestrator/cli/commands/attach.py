"""Follows a build that another process runs."""

from __future__ import annotations

import click

from orchestrator.app.named import Named
from orchestrator.app.record import Begun, Ended, begun, follow
from orchestrator.app.settings import Settings
from orchestrator.cli.options import recipe_argument
from orchestrator.cli.progress import BuildView
from orchestrator.cli.text import program
from orchestrator.cli.unbuilt import never_built
from orchestrator.errors import OrchestratorError, PlanRefusedError, StepKilledError, by_code


@click.command("attach")
@recipe_argument
@click.pass_context
def command(ctx: click.Context, recipe: Named) -> None:
    """Follow the build of RECIPE that runs, or see how its newest went; ends as that ends. Ctrl-C leaves it alone."""
    settings: Settings = ctx.obj
    root = settings.store.root
    whose = begun(root, recipe.name)
    if whose is None:
        raise never_built(settings, recipe)
    try:
        ended = _show(settings, recipe.name, whose)
    except KeyboardInterrupt as error:
        if type(error) is not KeyboardInterrupt:  # SIGTERM
            raise
        click.echo(f"the build goes on; back to it: {program()} attach {recipe}", err=True)
        return
    if ended is None:
        message = f"the build of {recipe.name} (process {whose.process}) was killed"
        raise StepKilledError(message, hint=f"{program()} build {recipe} goes on from there")
    if ended.code:
        raise _error(ended)
    if ended.status:
        click.echo("interrupted; what finished is kept", err=True)
        ctx.exit(ended.status)
    click.echo(f"{recipe.name} is built")


def _show(settings: Settings, recipe: str, whose: Begun) -> Ended | None:
    with BuildView() as view:
        for event in follow(settings.store.root, recipe, whose):
            if isinstance(event, Ended):
                return event
            view(event)
    return None


def _error(ended: Ended) -> OrchestratorError:
    kind = by_code(ended.code)
    if kind is None or issubclass(kind, PlanRefusedError):
        kind = OrchestratorError
    return kind(ended.message, hint=ended.hint)
