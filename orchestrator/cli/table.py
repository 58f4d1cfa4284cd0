"""Prints tables that fit the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.text import width

_UNLIMITED = 10_000
"""Columns, more than any table has."""


class _Console(Console):
    """Leaves it to the command line what happens if the reader of our output has closed it."""

    def on_broken_pipe(self) -> None:
        """Raise it again; the library's own method ends the process with status 1."""
        raise  # noqa: PLE0704 - the library calls it as it handles a BrokenPipeError


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), least: Sequence[int] = ()
) -> tuple[str, ...]:
    """Print a table on standard output, as wide as its content if there is no terminal and no `COLUMNS`.

    Args:
        heads: The columns' heads.
        rows: The cells.
        right: Columns with numbers.
        least: Columns that are left out, one after another, while the terminal is too narrow for all. Then the
            columns get narrower, and at last cells wrap.

    Returns:
        The heads that were left out.
    """
    console = _Console(highlight=False, emoji=False, width=width(sys.stdout) or _UNLIMITED)
    unlimited = console.options.update(width=_UNLIMITED)
    cells = list(rows)

    def without(count: int, padding: int = 1) -> Table:
        shown = [index for index in range(len(heads)) if index not in least[:count]]
        return _table(heads, cells, shown, right, padding)

    for count in range(len(least) + 1):
        table = without(count)
        if console.measure(table, options=unlimited).maximum <= console.width:
            left_out = least[:count]
            break
    else:
        table, left_out = without(len(least), padding=0), least
    console.print(table)
    return tuple(head for index, head in enumerate(heads) if index in left_out)


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int], right: Sequence[int], padding: int
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, padding=(0, 1, 0, padding))
    for index in shown:
        table.add_column(
            heads[index], justify="right" if index in right else "left", no_wrap=index == 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(row[index]) for index in shown))
    return table
