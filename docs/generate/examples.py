"""What commands really print, shortened to the width of a page."""

from __future__ import annotations

from collections.abc import Iterable

from click.testing import CliRunner

from docs.generate.markdown import ROOT, block
from docs.generate.recipes import SETTINGS
from orchestrator.cli.main import cli

_WIDTH = 110
_FLAGSHIP = "llama3-70b-nvfp4"
_SIX_LINES = (f"{_FLAGSHIP} on ", "phase ", "quantize ", "serve ", "tokens/s ", "decode, 1 ")
"""How the lines begin that the README shows: the verdict, memory of two phases, speed of one request."""
_PLAIN = {"NO_COLOR": "1", "FORCE_COLOR": None, "TTY_COMPATIBLE": None, "COLUMNS": None}


def plan_that_works() -> str:
    """Show a plan that can be carried out."""
    return _shown("plan", _FLAGSHIP)


def plan_in_short() -> str:
    """Show six lines of it.

    Raises:
        LookupError: The plan does not print one of them.
    """
    lines = _printed("plan", _FLAGSHIP)
    return block("\n".join([f"$ orchestrator plan {_FLAGSHIP}", *(_cut(_line(lines, words)) for words in _SIX_LINES)]))


def _line(lines: Iterable[str], beginning: str) -> str:
    for line in lines:
        if line.startswith(beginning):
            return line
    message = f"`plan {_FLAGSHIP}` prints no line that begins with {beginning!r}"
    raise LookupError(message)


def plan_that_is_refused() -> str:
    """Show a plan that cannot be carried out."""
    return _shown("plan", "jamba-1.5-large-nvfp4")


def comparison() -> str:
    """Show the formats of a model side by side: the heading and the table."""
    lines = _printed("compare", "llama3-70b")
    gaps = [number for number, line in enumerate(lines) if not line]
    return block("\n".join(["$ orchestrator compare llama3-70b", *lines[: gaps[1]]]))


def _shown(*arguments: str) -> str:
    lines = [_cut(line) for line in _printed(*arguments) if _stands(line)]
    return block("\n".join([f"$ orchestrator {' '.join(arguments)}", *lines]))


def _printed(*arguments: str) -> list[str]:
    places = ("--project", str(ROOT), "--store", str(SETTINGS.store_folder))
    output = CliRunner(env=_PLAIN).invoke(cli, [*places, *arguments]).output
    return [line.rstrip() for line in output.splitlines()]


def _stands(line: str) -> bool:
    """Leave out the rest of a table's cell, which hangs below it, and the command's name as it was called here."""
    return not line.startswith((" ", "next: ")) or line.startswith("  →")


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 2].rstrip() + " …"
