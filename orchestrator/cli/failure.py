"""How an error looks: its code, where and what, and what to do next; one JSON object where a program reads."""

from __future__ import annotations

import json
import os
import sys

import click

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
    color = False if os.environ.get("NO_COLOR") else None  # None: colour on a terminal only
    first, *rest = message.splitlines() or [""]
    click.echo(click.style(f"error[{code}]", fg="red", bold=True) + f": {first}", err=True, color=color)
    for line in rest:
        click.echo(f"  {line}", err=True)
    for line in hint.splitlines():
        click.echo(click.style(f"  → {line}", fg="cyan"), err=True, color=color)
