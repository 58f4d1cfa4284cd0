"""Prints the script that completes commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and recipes in a SHELL.

    For example: eval "$(orchestrator completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click accepts only these choices
    root = ctx.find_root().command
    click.echo(kind(root, {}, "orchestrator", "_ORCHESTRATOR_COMPLETE").source())
