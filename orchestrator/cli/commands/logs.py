"""Shows the log of a step or of a deployed server."""

from __future__ import annotations

import click

from orchestrator.app.deployed import container_of, server_log
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import Entry
from orchestrator.app.settings import Settings
from orchestrator.app.step_logs import StepLogs, chosen_step
from orchestrator.cli.build_view import amount_of
from orchestrator.cli.costs import sentence
from orchestrator.cli.options import not_built, recipe_argument
from orchestrator.events import Checked, Failure, LogLine, Progress, Spent, Warned, from_line


@click.command("logs")
@recipe_argument
@click.argument("step", required=False)
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Follow the log while the step runs; without STEP, continue with the later steps.",
)
@click.pass_obj
def command(settings: Settings, recipe: RecipeName, step: str | None, follow: bool) -> None:
    """Show the log of STEP of the newest build of RECIPE, or of `server` and the other deployed services.

    Without STEP: the running build, else the deployed server, else the step that ran last.
    """
    logs = StepLogs(settings.store, recipe.name)
    record = logs.record
    if not (record and (record.is_running or step in {entry.name for entry in record.steps})):
        container = container_of(settings.store.root, recipe.name, step)
        if container is not None:
            for piece in server_log(container, follow=follow):
                click.echo(piece.decode("utf-8", errors="replace"), nl=False)
            return
    if record is None or not record.steps:
        raise not_built(settings, recipe)
    _show(logs, chosen_step(record, step), follow=follow, all_steps=step is None)


def _show(logs: StepLogs, entry: Entry, *, follow: bool, all_steps: bool) -> None:
    following: Entry | None = entry
    while following:
        entry, empty = following, True
        for line in logs.lines(entry, follow=follow):
            _show_line(line)
            empty = False
        if empty:
            click.echo(f"{entry.name} has no output yet ({entry.state})", err=True)
        following = logs.next_step(entry) if follow and all_steps else None
        if following:
            click.echo(f"==> {following.name} <==", err=True)


def _show_line(line: bytes) -> None:
    """Print a line of a log. Events of our own steps are formatted."""
    event = from_line(line.decode("utf-8", errors="replace"))
    match event:
        case LogLine():
            click.echo(event.text)
        case Progress():
            click.echo(" · ".join(filter(None, (amount_of(event), event.part or event.note))))
        case Failure():
            click.echo(f"{event.code}: {event.message}")
        case Checked():
            click.echo(f"checked {event.path}: sha256 {event.sha256}")
        case Spent():
            click.echo(sentence(event))
        case Warned():
            click.echo(f"warning: {event.message}")
