"""Show the log of a step."""

from __future__ import annotations

import time
from pathlib import Path

import click

from orchestrator.cli.options import recipe_argument
from orchestrator.cli.settings import Settings
from orchestrator.errors import RecipeUnknownError, StepUnknownError
from orchestrator.journal import Entry, Journal
from orchestrator.runner import failed_log

_POLL = 0.3


@click.command("logs")
@recipe_argument
@click.argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as the step writes more.")
@click.pass_obj
def command(settings: Settings, recipe: str, step: str | None, follow: bool) -> None:
    """Show what STEP of the newest build of RECIPE wrote: the one that runs or ran last, if none is named."""
    journal = Journal.read(settings.store.root, recipe)
    if journal is None:
        message = f"{recipe} was never built here ({settings.store.root})"
        raise RecipeUnknownError(message, hint=f"orchestrator build {recipe}")
    entry = _entry(journal, step)
    file = _log(settings, journal, entry)
    if file is None:
        click.echo(f"{entry.name} wrote nothing yet ({entry.state})", err=True)
        return
    with file.open("rb") as stream:
        while True:
            chunk = stream.read(1 << 16)
            if chunk:
                click.echo(chunk.decode("utf-8", errors="replace"), nl=False)
            elif not follow or not _running(settings, recipe, entry.name):
                return
            else:
                time.sleep(_POLL)


def _entry(journal: Journal, step: str | None) -> Entry:
    if step is None:
        touched = [entry for entry in journal.steps if entry.state != "waiting"]
        return touched[-1] if touched else journal.steps[0]
    for entry in journal.steps:
        if entry.name == step:
            return entry
    message = f"{journal.recipe} has no step `{step}`"
    raise StepUnknownError(message, hint=f"its steps are: {', '.join(entry.name for entry in journal.steps)}")


def _log(settings: Settings, journal: Journal, entry: Entry) -> Path | None:
    """Find a step's log: with its artifact, in its running attempt, or kept from its failure."""
    if entry.log:
        places = [Path(entry.log)]
    elif entry.state == "running":
        attempts = [folder for folder in settings.store.attempts() if folder.name.startswith(f"{entry.key}-")]
        places = [folder / "log.txt" for folder in attempts]
    else:
        places = [failed_log(settings.store.root, journal.recipe, entry.name)]
    return next((place for place in places if place.is_file()), None)


def _running(settings: Settings, recipe: str, step: str) -> bool:
    journal = Journal.read(settings.store.root, recipe)
    return bool(journal and journal.alive and _entry(journal, step).state == "running")
