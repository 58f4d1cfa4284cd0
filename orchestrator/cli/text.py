"""Formats lines, tables and commands for people."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from rich.table import Table

_NARROWEST, _UNLIMITED = 20, 10_000
"""Columns. The second is wider than any table."""


def program() -> str:
    """Return the command for lines to paste, with the folders that it was given."""
    return " ".join((_called(), *_given()))


def _given() -> Iterator[str]:
    here = click.get_current_context(silent=True)
    if here is None:
        return
    context = here.find_root()
    for name in ("project", "store", "dist"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:  # environment variables still apply
            yield f"--{name} {shlex.quote(str(context.params[name]))}"


def _called() -> str:
    called = Path(sys.argv[0])
    if called.suffix == ".py":  # python -m, as for a detached build
        return "orchestrator"
    found = shutil.which(called.name)
    if found and Path(found).resolve() == called.resolve():
        return called.name
    return os.path.relpath(called) if called.exists() else called.name


def width(stream: TextIO) -> int | None:
    """Return the columns of the terminal, or COLUMNS; None if the output is not a terminal."""
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdecimal():
        return None
    return max(shutil.get_terminal_size().columns, _NARROWEST)


def wrapped(text: str, columns: int | None, *, hanging: int = 2) -> str:
    """Wrap a line that is longer than the columns, with a hanging indent."""
    if columns is None or len(text) <= columns:
        return text
    begin = text[: len(text) - len(text.lstrip())]
    return textwrap.fill(
        text.strip(),
        columns,
        initial_indent=begin,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def print_text(text: str, *, hanging: int = 2) -> None:
    """Print a line on standard output, wrapped to the terminal's width."""
    click.echo(wrapped(text, width(sys.stdout), hanging=hanging))


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
    from rich.console import Console  # noqa: PLC0415 - only tables need most of rich

    console = Console(highlight=False, width=width(sys.stdout) or _UNLIMITED)
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
    from rich import box  # noqa: PLC0415 - as above
    from rich.markup import escape  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, padding=(0, 1, 0, padding))
    for index in shown:
        table.add_column(
            heads[index], justify="right" if index in right else "left", no_wrap=index == 0, overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(row[index]) for index in shown))
    return table


def print_json(document: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
