"""Locks against a Hub on this machine: resolve, pin, notice what moved, and build without the Hub once it is done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.hub import COMMIT, Hub, serve

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
schema_version: 1
name: from-the-hub
description: A small model from the Hub, served as it is
model: {repo: owner/model, license: mit, architecture: LlamaForCausalLM, parameters: 1.0e+6}
target: cpu
image: tensorrt-llm-1.3.0rc24
quantization: {format: bf16, method: none}
benchmark: null
"""


@dataclass
class World:
    """A project of its own, and the Hub that its recipe names."""

    hub: Hub
    root: Path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli.main", "--project", str(self.root / "project"), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "HOME": str(self.root),
                "HF_HOME": str(self.root / "hf"),
                "HF_ENDPOINT": self.hub.endpoint,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    @property
    def lock(self) -> Path:
        return self.root / "project" / "recipes" / "from-the-hub.lock"

    def steps(self) -> list[tuple[str, bool]]:
        """Build, and say of each step whether it was reused."""
        done = self("build", "from-the-hub", "--json")
        assert done.returncode == 0, done.stderr
        return [(step["name"], step["reused"]) for step in json.loads(done.stdout)["steps"]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    subprocess.run(
        [sys.executable, "-m", "orchestrator.payloads.generate", "--output", str(folder), "--layers", "1"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def world(tmp_path: Path, model: dict[str, bytes]) -> Iterator[World]:
    shutil.copytree(ROOT / "docker", tmp_path / "project" / "docker")
    (tmp_path / "project" / "recipes").mkdir()
    (tmp_path / "project" / "recipes" / "from-the-hub.yaml").write_text(RECIPE)
    with serve(Hub(files=dict(model))) as hub:
        yield World(hub, tmp_path)


def test_a_lock_names_the_commit_and_every_file(world: World, model: dict[str, bytes]) -> None:
    assert world("lock", "from-the-hub").returncode == 0
    locked = json.loads(world.lock.read_text())
    repository = locked["repositories"][0]
    assert (repository["repo"], repository["revision"], repository["commit"]) == ("owner/model", "main", COMMIT)
    assert {file["path"]: file["size"] for file in repository["files"]} == {n: len(c) for n, c in model.items()}
    assert world("lock", "from-the-hub", "--check").returncode == 0


def test_what_moved_upstream_is_noticed(world: World) -> None:
    world("lock", "from-the-hub")
    before = world.lock.read_bytes()
    world.hub.branches["main"] = "f" * 40
    done = world("lock", "from-the-hub", "--check")
    assert done.returncode == 7
    assert f"owner/model@main: {COMMIT} → {'f' * 40}" in done.stdout
    assert world.lock.read_bytes() == before


def test_a_lock_that_cannot_be_resolved_leaves_the_old_one(world: World) -> None:
    world("lock", "from-the-hub")
    before = world.lock.read_bytes()
    world.hub.gated = True
    done = world("lock", "from-the-hub")
    assert done.returncode == 6
    assert "error[HUB_ACCESS]" in done.stderr
    assert world.lock.read_bytes() == before


def test_a_locked_recipe_that_is_built_needs_no_hub(world: World) -> None:
    world("lock", "from-the-hub")
    assert world.steps() == [("download", False), ("verify", False)]
    world.hub.status = 500
    asked = len(world.hub.requests)
    assert world.steps() == [("download", True), ("verify", True)]
    assert len(world.hub.requests) == asked


def test_a_locked_recipe_stays_at_its_commit_when_the_branch_moves(world: World) -> None:
    world("lock", "from-the-hub")
    world.steps()
    world.hub.branches |= {"main": "f" * 40, "old": COMMIT}
    assert world.steps() == [("download", True), ("verify", True)]


def test_without_a_lock_the_branch_decides(world: World) -> None:
    world.steps()
    assert world.steps() == [("download", True), ("verify", True)]
    world.hub.branches |= {"main": "f" * 40, "old": COMMIT}
    assert world.steps()[0] == ("download", False)


def test_a_hub_that_is_down_stops_a_build_before_anything_runs(world: World) -> None:
    world.hub.status = 500
    done = world("build", "from-the-hub")
    assert done.returncode == 6
    assert "error[HUB_UNREACHABLE]" in done.stderr
    assert not (world.root / "project" / ".orchestrator" / "artifacts").exists()
