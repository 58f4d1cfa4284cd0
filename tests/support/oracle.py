"""The interpreter that has torch, transformers and the real ModelOpt, which the tests' own environment has not."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.environments import ROOT, oracle_python


@dataclass(frozen=True)
class Environment:
    """An interpreter that has torch, transformers and ModelOpt."""

    python: Path

    def run(self, *arguments: str | Path, **variables: str) -> str:
        environment = {**self.variables, **variables}
        done = subprocess.run([self.python, *arguments], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def has(self, module: str) -> bool:
        """Tell whether a module is installed there; some are for certain machines and versions of Python only."""
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        return subprocess.run([self.python, "-c", code], env=self.variables, check=False).returncode == 0

    @property
    def variables(self) -> dict[str, str]:
        """One thread each: these models are too small for more, and two of them run at once."""
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(ROOT),
        }


def find_environment() -> Environment:
    """Find it; without it the test is skipped, or fails where nothing may be skipped."""
    return Environment(oracle_python())
