"""Removes results that are no longer used."""

from __future__ import annotations

import click

from orchestrator.app import garbage
from orchestrator.app.settings import Settings
from orchestrator.cli.options import json_option
from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_json
from orchestrator.units import in_bytes


@click.command("gc")
@click.option("--delete", is_flag=True, help="Remove it.")
@json_option
@click.pass_obj
def command(settings: Settings, delete: bool, as_json: bool) -> None:
    """Show what neither the newest build of a recipe nor a lock uses. With --delete, remove it.

    This covers artifacts, abandoned attempts, saved state of steps, corrupt artifacts and downloads, containers
    whose orchestrator ended, and folders of a cluster's jobs that are gone. What is in use is never removed.
    dist/ stays complete, because its files are hard links of their own.
    """
    found = garbage.find_garbage(settings.store, garbage.needed_keys(settings), garbage.left_containers())
    jobs = garbage.find_left_jobs(settings)
    found = garbage.Findings((*found.garbage, *jobs.garbage), (*found.kept, *jobs.kept))
    gone = {id(item): delete and item.remove() for item in found.garbage}
    if as_json:
        print_json([_fields(item, removed=gone[id(item)]) for item in found.garbage])
        return
    if found.garbage:
        rows = [
            (item.kind, item.step, _shown(item), in_bytes(item.size), in_bytes(item.frees)) for item in found.garbage
        ]
        print_table(("what", "step", "name", "size", "frees"), rows, right=(3, 4))
    for reason in found.kept:
        click.echo(f"kept: {reason}")
    if delete:
        for item in found.garbage:
            if not gone[id(item)]:
                click.echo(f"kept: {item.kind} {_shown(item)} is in use now")
        click.echo(f"removed: {in_bytes(sum(item.frees for item in found.garbage if gone[id(item)]))}")
    else:
        click.echo(f"could be removed with --delete: {in_bytes(sum(item.frees for item in found.garbage))}")


def _shown(item: garbage.Garbage) -> str:
    """Shorten a key. A file's path is printed in full."""
    return item.name[:24] if item.key else item.name


def _fields(item: garbage.Garbage, *, removed: bool) -> dict[str, object]:
    return {
        "kind": item.kind,
        "name": item.name,
        "key": item.key,
        "step": item.step,
        "bytes": item.size,
        "frees": item.frees,
        "removed": removed,
    }
