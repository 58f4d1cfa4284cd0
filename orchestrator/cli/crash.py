"""A file with what a report of a defect needs; no values of variables, which could be secrets."""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

from orchestrator.cli.versions import version_text


def write_report(error: Exception) -> Path:
    """Write the report and say where it lies."""
    with tempfile.NamedTemporaryFile("w", prefix="orchestrator-defect-", suffix=".log", delete=False) as file:
        file.write(f"{version_text()}\n\ncommand: {' '.join(sys.argv[1:])}\n\n")
        file.write("".join(traceback.format_exception(error)))
    return Path(file.name)
