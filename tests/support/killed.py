"""Payloads that are killed at random moments, and what they leave in the end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.environments import ROOT
from tests.support.oracle import Environment

_SCRIPT = ROOT / "tests" / "integration" / "kill_payload.py"
KILLS = 10


@dataclass(frozen=True)
class Killed:
    """What ten kills left."""

    asked: list[str]
    """What was run, to run it again."""
    done: list[int]
    """How much was done at each kill, see `kill_payload.py`."""
    results: list[Path]
    """Folders of results, the first of them undisturbed; the last run went on after the last kill."""

    @property
    def differing(self) -> list[str]:
        """Results whose files are not those of the undisturbed one."""
        expected = contents(self.results[0])
        return [result.name for result in self.results if contents(result) != expected]


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill_ten_times(payload: str, folder: Path, options: list[str], environment: Environment | None = None) -> Killed:
    """Run a payload, in an environment that has torch where one is given, and kill it."""
    seed = random.SystemRandom().randrange(1000)
    asked = [str(_SCRIPT), payload, str(folder), str(KILLS), str(seed), *options]
    if environment is not None:
        printed = environment.run(*asked)
    else:
        done = subprocess.run(
            [sys.executable, *asked],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed = done.stdout
    results = [folder / "whole", folder / "again", folder / "last", *folder.glob("ended-*")]
    return Killed(asked, json.loads(printed.rpartition("RESULT ")[2]), results)
