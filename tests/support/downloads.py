"""Runs the payload that downloads, as its executor does, against a Hub on this machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.events import Checked, Failure, Progress, Warned, from_line
from tests.support.command_line import variables_of
from tests.support.hub import COMMIT, Hub

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Downloads:
    """Runs the payload as its executor does."""

    hub: Hub
    root: Path
    log: str = ""
    failure: Failure | None = None
    progress: list[Progress] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)
    count: int = 0

    @property
    def environment(self) -> dict[str, str]:
        return {**variables_of(self.root, self.hub.endpoint), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    @property
    def out(self) -> Path:
        return self.root / f"out-{self.count}"

    def start(
        self, *options: str, repo: str = "owner/model", revision: str = COMMIT, **environment: str
    ) -> subprocess.Popen[str]:
        self.count += 1
        self.out.mkdir()
        command = [sys.executable, "-m", "orchestrator.payloads.download", "--repo", repo, "--revision", revision]
        return subprocess.Popen(
            [*command, "--output", str(self.out), *options],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str, repo: str = "owner/model", revision: str = COMMIT, **environment: str) -> int:
        with self.start(*options, repo=repo, revision=revision, **environment) as done:
            stdout, stderr = done.communicate(timeout=120)
        self.log = stdout + stderr
        events = [from_line(line) for line in stdout.splitlines()]
        self.progress = [event for event in events if isinstance(event, Progress)]
        self.warnings = [event.message for event in events if isinstance(event, Warned)]
        self.checked = [event for event in events if isinstance(event, Checked)]
        self.failure = next((event for event in events if isinstance(event, Failure)), None)
        assert "Traceback" not in self.log
        return done.returncode

    def fails(self, code: str, **more: str) -> str:
        assert self.run(**more) == 6 if code != "PATH_ESCAPES" else 3
        assert self.failure is not None, self.log
        assert self.failure.code == code
        assert self.failure.hint or code == "PATH_ESCAPES"
        return self.failure.message

    def arrived(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes() for path in self.out.rglob("*") if path.is_file()
        }

    def cached(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.root / "hf" / "hub").rglob("blobs/*") if path.is_file()]
