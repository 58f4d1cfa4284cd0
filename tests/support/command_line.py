"""Runs `orchestrator` as a user would, in a fork of an interpreter that has imported what most commands need.

Nothing of that reads variables or files while it is imported: each fork reads its own. What is to be killed, to have
limits, or to be asked for its start needs a process of its own: `python` with `COMMAND`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.environments import ROOT
from tests.support.warm import warm_python

COMMAND = ("-m", "orchestrator.cli.main")
_LIBRARIES = ("click", "pydantic", "yaml", "jinja2", "orchestrator.app.make_plan", "orchestrator.cli.error_view")


def orchestrator(
    *arguments: str | Path, environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end.

    Args:
        arguments: What a user would type after `orchestrator`.
        environment: All variables that it gets.
        folder: Where it stands.
    """
    words = [*COMMAND, *map(str, arguments)]
    python = warm_python(Path(sys.executable), _LIBRARIES, (("PYTHONPATH", str(ROOT)),))
    done = python.run(words, environment, folder)
    return subprocess.CompletedProcess(words, done.status, done.output, done.errors)


def variables_of(home: Path, hub: str) -> dict[str, str]:
    """Return the variables of a user who has nothing but an empty home and the address of a Hub."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_ENDPOINT": hub,
    }
