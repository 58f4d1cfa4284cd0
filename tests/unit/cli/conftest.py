"""The command line in this process: a copy of the project's data, steps that are faked, and what was printed."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main as program
from orchestrator.executors.docker import LeftContainer
from tests.support.fake import FakeExecutor
from tests.support.leavings import tiny_executor

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Shell:
    """Runs commands as a person does."""

    folder: Path
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    executor: FakeExecutor = field(default_factory=tiny_executor)
    containers: list[LeftContainer] | None = None
    """What the engine tells; None: there is none."""
    out: str = ""
    err: str = ""

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def dist(self) -> Path:
        return self.folder / "dist"

    def __call__(self, *arguments: str) -> int:
        """Run one command and give its exit status; `out` and `err` are what it printed."""
        places = ["--project", str(self.project), "--store", str(self.store), "--dist", str(self.dist)]
        self.patch.setattr(sys, "argv", ["orchestrator", *places, *arguments])
        with pytest.raises(SystemExit) as ending:
            program.main()
        self.out, self.err = self.capture.readouterr()
        assert isinstance(ending.value.code, int | None)
        return ending.value.code or 0

    def json(self, *arguments: str, status: int = 0) -> Any:  # noqa: ANN401 - whatever JSON can say
        """Run a command that prints one JSON document, and read it."""
        assert self(*arguments, "--json") == status, self.err
        return json.loads(self.out)

    def error(self, *arguments: str) -> dict[str, str]:
        """Run a command that fails, and read its error as a program would."""
        assert self(*arguments, "--json") != 0
        found: dict[str, str] = json.loads(self.err.splitlines()[-1])["error"]
        return found

    def write_recipe(self, name: str, text: str) -> None:
        (self.project / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    shell = Shell(tmp_path, monkeypatch, capsys)
    for folder in ("recipes", "docker"):
        shutil.copytree(ROOT / folder, shell.project / folder, ignore=shutil.ignore_patterns("*.lock"))
    monkeypatch.setattr("orchestrator.app.building.ProcessExecutor", lambda _: shell.executor)
    monkeypatch.setattr("orchestrator.app.garbage.left_containers", lambda: shell.containers)
    before = signal.getsignal(signal.SIGTERM)
    yield shell
    signal.signal(signal.SIGTERM, before)
