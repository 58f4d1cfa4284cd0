"""The Makefile where the machine says something else than it expects."""

from __future__ import annotations

import os
import subprocess

from tests.support.environments import ROOT


def test_modules_are_kept_compiled_where_the_machine_keeps_none() -> None:
    said = subprocess.run(
        ["make", "--eval", "said: ; @env", "said"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "ORCHESTRATOR_LOCK=" in said
    assert "PYTHONDONTWRITEBYTECODE" not in said
