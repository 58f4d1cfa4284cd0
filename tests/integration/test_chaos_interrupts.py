"""Builds in containers that are interrupted, and which secrets of this shell Docker gets to know."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from docker.errors import NotFound

from tests.support.docker_daemon import Daemon
from tests.support.rehearsal import ONEPASS, Rehearsal, build_images

pytestmark = pytest.mark.docker

CANARIES = {"HF_TOKEN": "hf_canary_0123456789", "NGC_API_KEY": "nvapi-canary-0123456789"}


@pytest.fixture
def rehearsal(tmp_path: Path, daemon: Daemon) -> Iterator[Rehearsal]:
    build_images(daemon)
    made = Rehearsal.make(tmp_path / "project", daemon)
    yield replace(made, environment={**made.environment, **CANARIES})
    for left in daemon.executor().containers():
        if left.output.is_relative_to(made.folder):
            daemon.executor().discard(left.name)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_build_in_the_middle_of_a_container(
    rehearsal: Rehearsal, daemon: Daemon, number: signal.Signals, status: int
) -> None:
    with rehearsal.start("build", ONEPASS) as build:
        assert build.stderr is not None
        assert any(line.startswith("▸ verify ") for line in build.stderr)
        time.sleep(0.5)
        build.send_signal(number)
        rest = build.stderr.read()
        build.wait()
    assert build.returncode == status, rest
    assert [left for left in daemon.executor().containers() if left.output.is_relative_to(rehearsal.folder)] == []
    steps = json.loads(rehearsal.run("build", ONEPASS, "--json").stdout)["steps"]
    assert {step["name"]: step["reused"] for step in steps}["quantize"] is True


def test_no_secret_of_the_shell_is_passed_to_docker(rehearsal: Rehearsal, daemon: Daemon) -> None:
    inspected: dict[str, str] = {}
    with closing(daemon.connect()) as client, rehearsal.start("build", ONEPASS) as build:
        while build.poll() is None:
            for left in daemon.executor().containers():
                try:
                    inspected[left.name] = json.dumps(client.api.inspect_container(left.name))
                except NotFound:
                    continue
            time.sleep(0.1)
        assert build.stderr is not None
        said = build.stderr.read()
    assert build.returncode == 0, said
    assert len(inspected) >= 3, "a container for each step with an image"
    made = b"".join(file.read_bytes() for file in rehearsal.folder.rglob("*") if file.is_file()).decode(
        errors="replace"
    )
    for canary in CANARIES.values():
        assert canary not in said + made + "".join(inspected.values())
