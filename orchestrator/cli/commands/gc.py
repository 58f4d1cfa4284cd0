"""Remove what no newest build needs."""

from __future__ import annotations

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.settings import Settings
from orchestrator.cli.text import in_bytes, print_json, print_table
from orchestrator.journal import Journal


@click.command("gc")
@click.option("--delete", is_flag=True, help="Really remove it.")
@json_option
@click.pass_obj
def command(settings: Settings, delete: bool, as_json: bool) -> None:
    """Show what the newest build of no recipe needs, and with --delete remove it.

    What dist/ holds stays whole: its files are links of their own.
    """
    store = settings.store
    journals = [journal for name in Journal.recipes(store.root) if (journal := Journal.read(store.root, name))]
    needed = {entry.key for journal in journals for entry in journal.steps}
    unneeded = [artifact for artifact in store.artifacts() if artifact.key not in needed]
    if as_json:
        print_json([{"key": a.key, "step": a.step, "bytes": a.size, "removed": delete} for a in unneeded])
    elif unneeded:
        print_table(("step", "key", "size"), [(a.step, a.key[:16], in_bytes(a.size)) for a in unneeded], right=(2,))
    if delete:
        for artifact in unneeded:
            with store.lock(artifact.key, lambda: None):
                store.remove(artifact.key)
    if not as_json:
        total = in_bytes(sum(artifact.size for artifact in unneeded))
        click.echo(f"{'removed' if delete else 'could be removed with --delete'}: {total}")
