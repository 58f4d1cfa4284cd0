"""Shows the newest builds and the deployments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.app.cluster_chains import states_of
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import Entry, Record
from orchestrator.app.settings import Settings
from orchestrator.cli import costs
from orchestrator.cli.build_page_file import write_build_page
from orchestrator.cli.options import PageFile, json_option, not_built, optional_recipe_argument
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json, print_text, program
from orchestrator.deployment.record import remembered
from orchestrator.store.cost import Cost
from orchestrator.store.store import Store
from orchestrator.units import in_time

if TYPE_CHECKING:
    from orchestrator.deployment.deployed_containers import DeployedContainer

Jobs = Mapping[str, Mapping[str, str]]
"""The state of each step's job, by recipe and step."""


@click.command("status")
@optional_recipe_argument
@click.option(
    "--html",
    "page",
    type=PageFile(),
    metavar="FILE",
    help="Also write one self-contained page of the newest builds, with charts.",
)
@json_option
@click.pass_obj
def command(settings: Settings, recipe: RecipeName | None, page: Path | None, as_json: bool) -> None:
    """Show the newest build of RECIPE and the state of its server; all builds, if none is named."""
    root = settings.store.root
    records = [
        record for name in ([recipe.name] if recipe else Record.recipes(root)) if (record := Record.read(root, name))
    ]
    unreadable = [file for file in Record.unreadable(root) if recipe is None or file.stem == recipe.name]
    for file in unreadable:
        click.echo(f"{file} cannot be read, so nothing is known of the newest build of {file.stem}", err=True)
    made = _deployed(root, recipe.name if recipe else None)
    jobs = states_of(settings, recipe.name if recipe else None)
    if recipe and not (records or made or jobs or unreadable):
        raise not_built(settings, recipe)
    if page is not None and records:
        write_build_page(settings, records, page)
    if as_json:
        names = dict.fromkeys([*(j.recipe for j in records), *(one.recipe for one in made), *jobs])
        by_name = {record.recipe: record for record in records}
        print_json([_document(settings.store, name, by_name.get(name), made, jobs.get(name, {})) for name in names])
        return
    if records or jobs:
        _show_builds(records, jobs)
        if recipe and records:
            _show_costs(settings.store, records[0])
    elif not made and not unreadable:
        click.echo("no recipe was built yet")
    if made:
        click.echo()
        _show_deployed(made)


def _deployed(root: Path, recipe: str | None) -> tuple[DeployedContainer, ...]:
    """Ask Docker for the containers of deployments, or say why it does not answer."""
    if not remembered(root):
        return ()
    from orchestrator.app.deployed import deployed_containers  # noqa: PLC0415 - Docker's client loads slowly

    found = deployed_containers(root, recipe)
    if found.unknown:
        click.echo(f"the state of servers is unknown: {found.unknown}", err=True)
    return found.containers


def _show_builds(records: list[Record], jobs: Jobs) -> None:
    rows = [
        (j.recipe, entry.name, j.state_of(entry), in_time(entry.seconds) if entry.seconds else "", entry.error)
        for j in records
        for entry in j.steps
        if entry.name not in jobs.get(j.recipe, {})
    ]
    rows += [(recipe, step, state, "", "") for recipe, states in jobs.items() for step, state in states.items()]
    rows.sort(key=lambda row: row[0])
    print_table(("recipe", "step", "state", "time", ""), rows, right=(3,))
    for record in records:
        if record.error:
            print_text(f"{record.recipe}: {record.error}")
        if record.is_running:
            click.echo(
                f"{record.recipe} is being built by process {record.process}: {program()} attach {record.recipe}"
            )
    for recipe in jobs:
        click.echo(f"{recipe} has jobs on a cluster: {program()} attach {recipe}, or {program()} cancel {recipe}")


def _show_costs(store: Store, record: Record) -> None:
    """Show the cost of each result, also if another build made it."""
    found = [(entry.name, _cost(store, entry)) for entry in record.steps]
    rows = [costs.cells(name, cost) for name, cost in found if cost]
    if rows:
        click.echo("\ncost of each step")
        print_table(costs.HEADS, rows, right=costs.NUMBERS)


def _cost(store: Store, entry: Entry) -> Cost | None:
    return store.cost(entry.key) if entry.has_result else None


def _show_deployed(made: tuple[DeployedContainer, ...]) -> None:
    rows = [(one.recipe, one.service, one.state, str(one.restarts), one.address, _since(one)) for one in made]
    print_table(("recipe", "service", "state", "restarts", "address", ""), rows, right=(3,))


def _since(one: DeployedContainer) -> str:
    return one.detail or f"since {one.started[:19].replace('T', ' ')} UTC"


def _document(
    store: Store, name: str, record: Record | None, made: tuple[DeployedContainer, ...], jobs: Mapping[str, str]
) -> dict[str, object]:
    return {
        "recipe": name,
        "running": record.is_running if record else False,
        "process": record.process if record else None,
        "steps": [_fields(store, record, entry) for entry in record.steps] if record else [],
        "ended": vars(record.ended) if record and record.ended else None,
        "jobs": [{"step": step, "state": state} for step, state in jobs.items()],
        "deployed": [_deployed_fields(one) for one in made if one.recipe == name],
    }


def _deployed_fields(one: DeployedContainer) -> dict[str, object]:
    return {
        "service": one.service,
        "state": one.state,
        "detail": one.detail,
        "restarts": one.restarts,
        "started": one.started,
        "address": one.address,
        "container": one.container,
        "image": one.image,
        "bundle": str(one.folder),
    }


def _fields(store: Store, record: Record, entry: Entry) -> dict[str, object]:
    cost = _cost(store, entry)
    return {
        "name": entry.name,
        "state": record.state_of(entry),
        "seconds": round(entry.seconds, 3),
        "key": entry.key,
        "log": str(store.log(entry.key)) if entry.has_result else "",
        "error": entry.error,
        "cost": cost.document() if cost else None,
    }
