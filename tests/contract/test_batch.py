"""Builds of several recipes in real processes: what they share, and an interrupt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.store import owner
from tests.support.environments import ROOT

_BASE = "tiny-llama-w4a16-nvfp4"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, options in {"first": "", "second": "quantization: {scale_search: mse}\n"}.items():
        text = f"name: {name}\ndescription: One of two.\nextends: {_BASE}\n{options}"
        (tmp_path / "recipes").mkdir(exist_ok=True)
        (tmp_path / "recipes" / f"{name}.yaml").write_text(text)
    return tmp_path


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "orchestrator.cli.main",
        "--store",
        "store",
        "build",
        "first",
        "second",
        *arguments,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_two_at_once_make_what_they_share_once_and_each_its_deployment(project: Path) -> None:
    building = start(project, "--jobs", "2", "--json", "--html", "page.html")
    printed, said = building.communicate()
    assert building.returncode == 0, said
    found = {each["recipe"]: each for each in json.loads(printed)}
    assert {name: each["state"] for name, each in found.items()} == {"first": "built", "second": "built"}
    generated = [step["reused"] for each in found.values() for step in each["steps"] if step["name"] == "generate"]
    assert sorted(generated) == [False, True]
    assert sorted(path.name for path in (project / "dist").iterdir()) == ["first", "second"]
    assert "first: ✓ quantize: " in said
    page = (project / "page.html").read_text()
    assert page.count("Every step is done") == 4
    assert 'http-equiv="refresh"' not in page


def test_an_interrupt_ends_every_build_and_the_next_one_goes_on(project: Path) -> None:
    building = start(project, "--jobs", "2")
    assert building.stderr is not None
    assert any("waiting" in line for line in building.stderr)  # one makes the model, and the other waits for it
    building.send_signal(signal.SIGINT)
    printed, _ = building.communicate()
    assert building.returncode == 130
    assert printed.count("interrupted") == 2
    records = [(project / "store" / "runs" / f"{name}.events").read_text().splitlines() for name in ("first", "second")]
    for lines in records:
        assert not owner.is_running(json.loads(lines[0])["owner"])
        assert json.loads(lines[-1]) == {"event": "ended", "status": 130, "code": "", "message": "", "hint": ""}
    again = start(project, "--until", "quantize")
    assert again.communicate() is not None
    assert again.returncode == 0
