"""Shows the log of a step or of a deployed server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from orchestrator.app.journal import Entry, Journal
from orchestrator.app.named import Named
from orchestrator.app.runner import failed_log
from orchestrator.app.settings import Settings
from orchestrator.cli.costs import sentence
from orchestrator.cli.deployed import container_of, copy_log
from orchestrator.cli.options import recipe_argument
from orchestrator.cli.progress import amount_of
from orchestrator.cli.unbuilt import never_built
from orchestrator.errors import StepUnknownError
from orchestrator.events import Checked, Failure, LogLine, Progress, Spent, Warned, from_line

_POLL = 0.3
_NEWEST = 4096
"""Bytes at the end of a truncated log from which the reader continues."""


@click.command("logs")
@recipe_argument
@click.argument("step", required=False)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on as the step writes more; without STEP through all that follow."
)
@click.pass_obj
def command(settings: Settings, recipe: Named, step: str | None, follow: bool) -> None:
    """Show the log of STEP of the newest build of RECIPE, or of `server` and the other deployed services.

    Without STEP: the running build, else the deployed server, else the step that ran last.
    """
    journal = Journal.read(settings.store.root, recipe.name)
    if not (journal and (journal.is_running or step in {entry.name for entry in journal.steps})):
        container = container_of(settings.store.root, recipe.name, step)
        if container is not None:
            copy_log(container, follow=follow)
            return
    journal = _journal(settings, recipe)
    entry = _entry(journal, step)
    while True:
        found = _print(settings, recipe, entry, follow=follow)
        if not found:
            click.echo(f"{entry.name} wrote nothing yet ({entry.state})", err=True)
        after = _next(settings, recipe, entry) if follow and not step else None
        if after is None:
            return
        entry = after
        click.echo(f"==> {entry.name} <==", err=True)


def _journal(settings: Settings, recipe: Named) -> Journal:
    journal = Journal.read(settings.store.root, recipe.name)
    if journal is None:
        raise never_built(settings, recipe)
    return journal


def _entry(journal: Journal, step: str | None) -> Entry:
    if step is None:
        touched = [entry for entry in journal.steps if entry.state != "waiting"]
        return touched[-1] if touched else journal.steps[0]
    for entry in journal.steps:
        if entry.name == step:
            return entry
    message = f"{journal.recipe} has no step `{step}`"
    raise StepUnknownError(message, hint=f"its steps are: {', '.join(entry.name for entry in journal.steps)}")


def _print(settings: Settings, recipe: Named, entry: Entry, *, follow: bool) -> bool:
    """Print a step's log, and follow it while the step runs; False if there is none."""
    file = _log(settings, recipe, entry)
    while file is None and follow and _running(settings, recipe, entry.name):
        time.sleep(_POLL)
        entry = _entry(_journal(settings, recipe), entry.name)
        file = _log(settings, recipe, entry)
    if file is None:
        return False
    for line in lines_of(file, lambda: follow and _running(settings, recipe, entry.name)):
        _say(line)
    return True


def lines_of(file: Path, is_written: Callable[[], bool], poll: float = _POLL) -> Iterator[bytes]:
    """Yield the lines of a log, and new lines while it is written.

    Args:
        file: The log.
        is_written: Whether more lines may come.
        poll: Seconds between two checks.
    """
    with file.open("rb") as stream:
        begun = b""
        while True:
            running = is_written()  # checked before the file, so that its last lines are read
            size = os.fstat(stream.fileno()).st_size
            if stream.tell() > size:  # it grew too large, and its middle was cut
                stream.seek(max(0, size - _NEWEST))
                begun = b""
            for piece in stream:
                begun += piece
                if begun.endswith(b"\n"):
                    yield begun
                    begun = b""
            if not running:
                if begun:
                    yield begun
                return
            time.sleep(poll)


def _say(line: bytes) -> None:
    """Print a line of a log. Events of our own steps are put into words."""
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


def _log(settings: Settings, recipe: Named, entry: Entry) -> Path | None:
    """Find a step's log: with its artifact, in its running attempt, or kept after a failure."""
    store = settings.store
    if entry.state in ("done", "reused"):  # by its key, because the store may have been moved
        places = [store.root / "artifacts" / entry.key / "log.txt"]
    elif entry.state == "running":
        attempts = [folder for folder in store.attempts() if folder.name.startswith(f"{entry.key}-")]
        places = [folder / "log.txt" for folder in attempts]
    else:
        places = [failed_log(store.root, recipe.name, entry.name)]
    return next((place for place in places if place.is_file()), None)


def _running(settings: Settings, recipe: Named, step: str) -> bool:
    journal = Journal.read(settings.store.root, recipe.name)
    return bool(journal and journal.alive and _entry(journal, step).state == "running")


def _next(settings: Settings, recipe: Named, entry: Entry) -> Entry | None:
    """Wait for the next step; None if the build has ended."""
    while True:
        journal = _journal(settings, recipe)
        names = [other.name for other in journal.steps]
        later = journal.steps[names.index(entry.name) + 1 :] if entry.name in names else []
        found = next((other for other in later if other.state != "waiting"), None)
        if found or not later or not journal.is_running:
            return found
        time.sleep(_POLL)
