"""Prints an error: its code, place, finding and hint, or one JSON object for programs."""

from __future__ import annotations

import json
import os
import sys

import click

from orchestrator.cli.text import width, wrapped
from orchestrator.errors import OrchestratorError, PlanRefusedError


def show_error(error: OrchestratorError) -> None:
    """Write an error to standard error."""
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}), err=True)
        return
    if isinstance(error, PlanRefusedError):
        for refusal in error.refusals:
            _write(refusal.code, refusal.message, refusal.hint)
        return
    _write(error.code, error.message, error.hint)


def _write(code: str, message: str, hint: str) -> None:
    color = False if os.environ.get("NO_COLOR") else None  # None: colour only on a terminal
    columns = width(sys.stderr)
    first, *rest = message.splitlines() or [""]
    label = f"error[{code}]"
    line = wrapped(f"{label}: {first}", columns)
    click.echo(click.style(label, fg="red", bold=True) + line.removeprefix(label), err=True, color=color)
    for line in rest:
        click.echo(wrapped(f"  {line}", columns, hanging=4), err=True)
    for line in hint.splitlines():
        click.echo(click.style(wrapped(f"  → {line}", columns, hanging=4), fg="cyan"), err=True, color=color)
