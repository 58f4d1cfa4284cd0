"""Writes a crash report without secrets: no local variables, and no values of secret environment variables."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from pathlib import Path

from orchestrator.cli.versions import version_text

_TELLING = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 6
"""Shorter values are not redacted, because they occur in any text."""


def write_report(error: Exception) -> Path:
    """Write the report and return its path."""
    text = f"{version_text()}\n\ncommand: {' '.join(sys.argv[1:])}\n\n{''.join(traceback.format_exception(error))}"
    with tempfile.NamedTemporaryFile(
        "w", prefix="orchestrator-defect-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(without_secrets(text))
    return Path(file.name)


def without_secrets(text: str) -> str:
    """Redact the values of environment variables whose name contains token, key, password or the like."""
    for name, value in os.environ.items():
        if _TELLING.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"[{name}]")
    return text
