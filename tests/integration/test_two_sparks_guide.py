"""The guide to two Sparks is true: its commands run, in their order, over real ssh between two hosts."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import canaries
from tests.support.guides import blocks, text_of
from tests.support.sparks import Sparks, two_sparks
from tests.support.two_folders import RECIPE

_TIME = 120


@pytest.fixture
def sparks(tmp_path: Path) -> Iterator[Sparks]:
    with two_sparks(tmp_path) as made:
        yield made


def test_the_commands_of_the_guide_work_in_their_order(sparks: Sparks) -> None:
    head, worker = sparks.head, sparks.worker
    canaries.fill(head.bundle)
    shutil.rmtree(worker.bundle)
    (worker.folder / "image").unlink()
    built, started, watched, asked = blocks("two-sparks", "sh")
    assert RECIPE in built
    (head.folder / "dist").mkdir()
    (head.folder / "dist" / RECIPE).symlink_to(head.bundle)
    (head.folder / "bin" / "orchestrator").write_text(f'#!/bin/sh\n[ "$*" = "build {RECIPE}" ]\n')  # 134 GB
    (head.folder / "bin" / "orchestrator").chmod(0o755)

    def follow(block: str, folder: Path) -> str:
        done = subprocess.run(
            head.command("bash", "-euo", "pipefail", "-c", block),
            cwd=folder,
            env=head.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIME,
        )
        assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
        return done.stdout

    follow(built, head.folder)
    scripts = head.bundle / "two-sparks"
    (named,) = re.findall(r"into `.env`: `PEER_ADDRESS=([0-9.]+)`", text_of("two-sparks"))
    settings = (scripts / ".env").read_text()
    assert "\nPEER_ADDRESS=\n" in settings, "the guide names the line to write"
    assert named != worker.address
    of_this_machine = "".join(f"{name}={value}\n" for name, value in sparks.settings.items() if name != "PEER_ADDRESS")
    (scripts / ".env").write_text(settings.replace("PEER_ADDRESS=", f"PEER_ADDRESS={worker.address}") + of_this_machine)

    said = follow(started, scripts)
    for words in ("has the bundle and the image", "there: ", "the same weights on both", "is served on http://"):
        assert words in said, said
    assert canaries.found_in(worker.folder) == []
    assert RECIPE in follow(asked, scripts)
    assert follow(watched, scripts).startswith("here:  running\nthere: running\nready\n")
    assert "not ready" in follow("./start.sh status", scripts)
