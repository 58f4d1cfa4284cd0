"""Builds that outlive their terminal, and what Ctrl-C and SIGTERM do to builds as programs of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.bench import wait_for

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tiny-llama-w4a16-nvfp4"
LONG = ("--set", "model.generate.num_hidden_layers=128", "--set", "model.generate.hidden_size=384")
"""Makes the first step long enough to be met at work."""


@dataclass(frozen=True)
class Place:
    """A store of its own, and the command on it."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def command(self, *arguments: str) -> list[str]:
        places = ["--project", str(ROOT), "--store", str(self.store), "--dist", str(self.folder / "dist")]
        return [sys.executable, "-m", "orchestrator.cli.main", *places, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.folder)}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def is_at_work(self) -> bool:
        """Whether the first step has said something, or has at least begun."""
        return any(self.store.glob("attempts/*/log.txt"))

    def left(self) -> list[str]:
        return [path.name for path in self.store.glob("attempts/*")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_detached_build_is_followed_to_its_end(place: Place) -> None:
    started = place.run("build", RECIPE, "--detach", "--json")
    assert started.returncode == 0, started.stderr
    document = json.loads(started.stdout)
    attached = place.run("attach", RECIPE)
    assert attached.returncode == 0, attached.stderr
    assert "✓ verify: " in attached.stderr
    assert attached.stdout == f"{RECIPE} is built\n"
    wait_for(lambda: '"bundle"' in Path(document["log"]).read_text())
    assert (place.folder / "dist" / RECIPE / "compose.yaml").is_file()


def test_a_detached_build_that_cannot_begin_says_so_at_once(place: Place) -> None:
    refused = place.run("build", RECIPE, "--detach", "--set", "image=nothing")
    assert refused.returncode == 3
    assert "error[IMAGE_UNKNOWN]" in refused.stderr


def test_leaving_an_attached_build_does_not_end_it(place: Place) -> None:
    process = json.loads(place.run("build", RECIPE, *LONG, "--detach", "--json").stdout)["process"]
    wait_for(place.is_at_work)
    with place.start("attach", RECIPE) as attached:
        assert attached.stderr is not None
        assert attached.stderr.readline()  # it shows a step: it follows
        attached.send_signal(signal.SIGINT)
        _, said = attached.communicate(timeout=20)
    assert attached.returncode == 0, said
    assert "the build continues" in said
    assert json.loads(place.run("status", RECIPE, "--json").stdout)[0]["running"] is True
    os.kill(process, signal.SIGTERM)
    ended = place.run("attach", RECIPE)
    assert ended.returncode == 143, ended.stderr
    assert place.left() == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_build_in_the_middle_of_a_step(place: Place, number: signal.Signals, status: int) -> None:
    with place.start("build", RECIPE, *LONG) as build:
        wait_for(place.is_at_work)
        build.send_signal(number)
        _, said = build.communicate(timeout=20)
    assert build.returncode == status, said
    assert "Traceback" not in said
    assert place.left() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_build_that_is_killed_takes_its_processes_along(place: Place, number: signal.Signals) -> None:
    with place.start("build", RECIPE, *LONG) as build:
        wait_for(place.is_at_work)
        build.send_signal(number)
        build.communicate(timeout=20)
    wait_for(lambda: not _processes_at(place.store))
    assert place.run("attach", RECIPE).returncode == 5


def _processes_at(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and int(entry.parent.name) != os.getpid():
            found.append(words)
    return found
