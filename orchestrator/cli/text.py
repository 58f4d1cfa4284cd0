"""Formats lines and commands for people."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click
from click.core import ParameterSource

_NARROWEST = 20
"""Columns."""


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


def print_json(document: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
