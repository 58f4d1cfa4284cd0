"""Asks after Ctrl-C whether the jobs of a cluster continue."""

from __future__ import annotations

import sys
from typing import Literal

import click

from orchestrator.app.recipe_name import RecipeName
from orchestrator.cli.text import program

OnInterrupt = Literal["ask", "leave", "cancel"]


def leaves_jobs(on_interrupt: OnInterrupt, recipe: RecipeName) -> bool:
    """Decide whether the jobs of a build continue after an interrupt. Without a terminal, they do not, unless asked to.

    A second Ctrl-C at the question cancels them.
    """
    left = on_interrupt == "leave" or (on_interrupt == "ask" and is_interactive() and _ask())
    if left:
        click.echo(f"the jobs continue: {program()} attach {recipe}, or {program()} cancel {recipe}", err=True)
    return left


def is_interactive() -> bool:
    """Tell whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask() -> bool:
    try:
        return click.confirm("Do the jobs in the queue continue? (no: cancel them)", default=True, err=True)
    except click.Abort:
        return False
