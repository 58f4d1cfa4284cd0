"""Show what the newest builds did."""

from __future__ import annotations

import click

from orchestrator.cli.options import RecipeName, json_option
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import in_time, print_json, print_table, program
from orchestrator.errors import RecipeUnknownError
from orchestrator.journal import Entry, Journal


@click.command("status")
@click.argument("recipe", required=False, type=RecipeName())
@json_option
@click.pass_obj
def command(settings: Settings, recipe: str | None, as_json: bool) -> None:
    """Show what the newest build of RECIPE did, or of every recipe that was ever built."""
    root = settings.store.root
    journals = [
        journal for name in ([recipe] if recipe else Journal.recipes(root)) if (journal := Journal.read(root, name))
    ]
    if recipe and not journals:
        message = f"{recipe} was never built here ({root})"
        raise RecipeUnknownError(message, hint=f"orchestrator build {recipe}")
    if as_json:
        print_json([_document(journal) for journal in journals])
        return
    if not journals:
        click.echo("nothing was built yet")
        return
    rows = [
        (j.recipe, entry.name, _state(j, entry), in_time(entry.seconds), entry.error)
        for j in journals
        for entry in j.steps
    ]
    print_table(("recipe", "step", "state", "time", ""), rows, right=(3,))
    for journal in journals:
        if journal.is_running:
            click.echo(
                f"{journal.recipe} is being built by process {journal.process}: {program()} attach {journal.recipe}"
            )


def _document(journal: Journal) -> dict[str, object]:
    return {
        "recipe": journal.recipe,
        "running": journal.is_running,
        "process": journal.process,
        "steps": [_fields(journal, entry) for entry in journal.steps],
    }


def _fields(journal: Journal, entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "state": _state(journal, entry),
        "seconds": round(entry.seconds, 3),
        "key": entry.key,
        "log": entry.log,
        "error": entry.error,
    }


def _state(journal: Journal, entry: Entry) -> str:
    """Tell a running step from one whose orchestrator died."""
    return "abandoned" if entry.state == "running" and not journal.alive else entry.state
