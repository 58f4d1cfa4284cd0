"""The interpreter that has torch, transformers and the real ModelOpt, which the tests' own environment has not."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.environments import ROOT, oracle_python
from tests.support.warm import Done, warm_python

_TRANSFORMERS = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",  # transformers imports what models need when it is asked for one
)
_MODELOPT = ("modelopt.torch.quantization", "modelopt.torch.export")


@dataclass(frozen=True)
class Environment:
    """An interpreter that has torch, transformers and ModelOpt."""

    python: Path
    libraries: tuple[str, ...] = ()
    """What is imported once; each program is a fork of that process. Without any, each is a process of its own."""

    @property
    def with_modelopt(self) -> Environment:
        """The same, with ModelOpt imported."""
        return replace(self, libraries=(*self.libraries, *_MODELOPT))

    def run(self, *arguments: str | Path, **variables: str) -> str:
        """Run a program that must succeed, and return what it printed."""
        done = self.end(*arguments, **variables)
        assert done.status == 0, done.output + done.errors
        return done.output

    def end(self, *arguments: str | Path, **variables: str) -> Done:
        """Run a program, and return how it ended."""
        environment, words = {**self.variables, **variables}, list(map(str, arguments))
        if self.libraries:
            deciding = tuple((name, environment[name]) for name in ("PYTHONPATH", "OMP_NUM_THREADS", "HF_HUB_OFFLINE"))
            return warm_python(self.python, self.libraries, deciding).run(words, environment)
        done = subprocess.run([self.python, *words], capture_output=True, text=True, env=environment, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

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
    return Environment(oracle_python(), _TRANSFORMERS)
