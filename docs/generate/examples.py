"""What commands really print, shortened to the width of a page."""

from __future__ import annotations

from click.testing import CliRunner

from docs.generate.markdown import ROOT, block
from docs.generate.recipes import SETTINGS
from orchestrator.cli.main import cli

_WIDTH = 110
_PLAIN = {"NO_COLOR": "1", "FORCE_COLOR": None, "TTY_COMPATIBLE": None}


def plan_that_works() -> str:
    """Show a plan that can be carried out."""
    return _shown("plan", "llama3-70b-nvfp4")


def plan_that_is_refused() -> str:
    """Show a plan that cannot."""
    return _shown("plan", "jamba-1.5-large-nvfp4")


def _shown(*arguments: str) -> str:
    places = ("--project", str(ROOT), "--store", str(SETTINGS.store_option))
    output = CliRunner(env=_PLAIN).invoke(cli, [*places, *arguments]).output
    lines = [line.rstrip() for line in output.splitlines()]
    return block("\n".join([f"$ orchestrator {' '.join(arguments)}", *(_cut(line) for line in lines if _stands(line))]))


def _stands(line: str) -> bool:
    """Leave out the rest of a table's cell, which hangs below it, and the command's name as it was called here."""
    return not line.startswith((" ", "next: ")) or line.startswith("  →")


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else line[: _WIDTH - 2].rstrip() + " …"
