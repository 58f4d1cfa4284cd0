"""Shows what users of a server see."""

from __future__ import annotations

import click

from orchestrator.cli.table import print_table
from orchestrator.cli.text import print_text
from orchestrator.pages.cells import USER_HEADS, power_words, user_rows, users_words
from orchestrator.planner.users import Users


def show_users(users: Users) -> None:
    """Print the workload in sentences, and a table of more and fewer users."""
    for line in (*users_words(users), *power_words(users)):
        print_text(line)
    if users.sweep:
        click.echo()
        print_table(USER_HEADS, user_rows(users.sweep, users.knee), right=range(len(USER_HEADS)), least=(6, 4))
        print_text("* the knee: from here on more users cost more time than they bring tokens")
    click.echo()
