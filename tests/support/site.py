"""A store on a cluster and the command `orchestrator` on it, for tests of whole builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.command_line import COMMAND, orchestrator

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tiny-llama-w4a16-nvfp4"


@dataclass(frozen=True)
class Site:
    """A store on a cluster, and the command on it."""

    executor: str
    variables: Mapping[str, str]
    """By which the command finds the cluster."""
    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, *COMMAND, *self.places, *arguments]

    @property
    def places(self) -> tuple[str, ...]:
        return ("--project", str(ROOT), "--store", str(self.folder / "store"), "--dist", str(self.folder / "dist"))

    @property
    def build(self) -> tuple[str, ...]:
        return ("build", RECIPE, "--executor", self.executor, "--cluster", str(self.folder / "cluster.yaml"))

    @property
    def environment(self) -> dict[str, str]:
        kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.folder)}
        return {**kept, **self.variables}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return orchestrator(*self.places, *arguments, environment=self.environment, folder=Path.cwd())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def states(self) -> dict[str, str]:
        (document,) = json.loads(self.run("status", RECIPE, "--json").stdout)
        return {job["step"]: job["state"] for job in document["jobs"]}
