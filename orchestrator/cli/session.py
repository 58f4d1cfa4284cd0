"""Prepares what every command uses: the settings, this machine's calibration, and a note about old results."""

from __future__ import annotations

import os
from pathlib import Path

import click

from orchestrator.app.leftovers import leftovers
from orchestrator.app.settings import Settings
from orchestrator.planner.constants import calibrations_of


def open_session(ctx: click.Context, project: Path | None, store: Path | None, dist: Path | None) -> None:
    """Give a command its settings in `ctx.obj`."""
    settings = ctx.obj = Settings(os.environ, project, store, dist)
    _show_leftovers(settings)
    ctx.with_resource(calibrations_of(lambda: click.get_current_context().obj.store.root))


def _show_leftovers(settings: Settings) -> None:
    for left in leftovers(settings):
        click.echo(f"note: an earlier version left {left.what} in {left.folder}. To move them:", err=True)
        for command in left.commands:
            click.echo(f"  {command}", err=True)
