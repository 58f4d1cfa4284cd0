"""Reads how-to guides, so that tests can run their commands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from orchestrator.errors import by_code

ROOT = Path(__file__).resolve().parents[2]


def blocks(guide: str, language: str) -> list[str]:
    """Return the code blocks of a guide in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(guide), re.DOTALL | re.MULTILINE)


def codes(guide: str) -> dict[str, tuple[str, str]]:
    """Return the error codes in a guide's table: the exit status there, and that of the program."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\d) \|", text_of(guide), re.MULTILINE)
    kinds = {code: by_code(code) for code, _ in rows}
    return {code: (status, str(kind.exit_status) if (kind := kinds[code]) else "") for code, status in rows}


def program_in(folder: Path) -> Path:
    """Make the command `orchestrator` of this checkout, in a folder for PATH."""
    folder.mkdir()
    command = folder / "orchestrator"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator.cli.main "$@"\n')
    command.chmod(0o755)
    return folder


def text_of(guide: str) -> str:
    """Return the text of a guide."""
    return (ROOT / "docs" / "how-to" / f"{guide}.md").read_text("utf-8")
