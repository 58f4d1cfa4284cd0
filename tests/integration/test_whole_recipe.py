"""Whole recipes in real containers with stand-ins: from recipe to bundle, killed in every step, and back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.executors.docker import LeftContainer
from tests.support.bench import wait_for
from tests.support.docker_daemon import Daemon
from tests.support.rehearsal import ENGINE, ONEPASS, Rehearsal, await_step, build_images, kill_when, pause
from tests.support.sample import sample

pytestmark = pytest.mark.docker

STEPS = {
    ONEPASS: ["generate", "quantize", "verify", "benchmark"],
    ENGINE: ["generate", "calibration", "quantize", "convert", "engine", "verify", "benchmark"],
}


@pytest.fixture(scope="module")
def standins(daemon: Daemon) -> Daemon:
    build_images(daemon)
    return daemon


@pytest.fixture
def rehearsal(tmp_path: Path, standins: Daemon) -> Iterator[Rehearsal]:
    made = Rehearsal.make(tmp_path / "project", standins)
    yield made
    for name in _left_containers(standins, made):  # so that the test after a failed one starts clean
        standins.executor().discard(name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, standins: Daemon) -> dict[str, dict[str, str]]:
    """The digests of every step of every recipe, built without disturbance."""
    rehearsal = Rehearsal.make(tmp_path_factory.mktemp("undisturbed") / "project", standins)
    return {recipe: rehearsal.digests(recipe) for recipe in STEPS}


def _left(daemon: Daemon, rehearsal: Rehearsal) -> list[LeftContainer]:
    return [left for left in daemon.executor().containers() if left.output.is_relative_to(rehearsal.folder)]


def _states(daemon: Daemon, rehearsal: Rehearsal) -> dict[str, str]:
    """Map the step of each container to the container's state."""
    return {left.step: left.status for left in _left(daemon, rehearsal)}


def _left_containers(daemon: Daemon, rehearsal: Rehearsal) -> list[str]:
    return [left.name for left in _left(daemon, rehearsal)]


@pytest.mark.parametrize("recipe", STEPS)
def test_a_recipe_runs_from_its_first_step_to_its_bundle_and_then_reuses_every_step(
    rehearsal: Rehearsal, standins: Daemon, recipe: str
) -> None:
    document = json.loads(rehearsal.run("build", recipe, "--json").stdout)
    assert [step["name"] for step in document["steps"]] == STEPS[recipe]
    bundle = Path(document["bundle"])
    for line in (bundle / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest, name
    assert "tokens/s, measured" in (bundle / "MODEL_CARD.md").read_text()
    assert json.loads((bundle / "quality.json").read_text())["served"]["answer"]
    assert _left_containers(standins, rehearsal) == []
    again = json.loads(rehearsal.run("build", recipe, "--json").stdout)
    assert [step["name"] for step in again["steps"] if step["reused"]] == STEPS[recipe]


@pytest.mark.parametrize(
    ("recipe", "moment"), [(recipe, moment) for recipe in STEPS for moment in sample(recipe, (0.0, 0.3), 1)]
)
def test_a_build_that_is_killed_in_every_step_ends_with_the_same_bytes(
    rehearsal: Rehearsal, standins: Daemon, undisturbed: dict[str, dict[str, str]], recipe: str, moment: float
) -> None:
    for step in STEPS[recipe]:
        kill_when(rehearsal.start("build", recipe), f"▸ {step} ", after=moment)
    digests = rehearsal.digests(recipe)
    assert _repeatable(digests) == _repeatable(undisturbed[recipe])
    assert list((rehearsal.store / "attempts").iterdir()) == []
    assert _left_containers(standins, rehearsal) == []


def test_a_build_that_is_killed_after_its_container_ended_publishes_what_it_left(
    rehearsal: Rehearsal, standins: Daemon, undisturbed: dict[str, dict[str, str]]
) -> None:
    process = rehearsal.start("build", ENGINE)
    await_step(process, "▸ engine ")
    wait_for(lambda: _states(standins, rehearsal).get("engine") in ("running", "exited"))
    pause(process)
    wait_for(lambda: _states(standins, rehearsal) == {"engine": "exited"})
    process.kill()
    process.communicate()
    again = rehearsal.run("build", ENGINE, "--json")
    digests = {step["name"]: step["digest"] for step in json.loads(again.stdout)["steps"]}
    assert _repeatable(digests) == _repeatable(undisturbed[ENGINE])
    assert "adopted" in again.stderr


def _repeatable(digests: dict[str, str]) -> dict[str, str]:
    """All but what holds measured seconds, which differ each time."""
    return {name: digest for name, digest in digests.items() if name not in ("verify", "benchmark")}


def test_the_same_recipe_built_twice_at_once_runs_each_step_once(rehearsal: Rehearsal) -> None:
    first, second = rehearsal.start("build", ONEPASS), rehearsal.start("build", ONEPASS)
    said = [process.communicate()[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    for step in STEPS[ONEPASS]:
        assert sum(f"▸ {step} " in text for text in said) == 1, said
        assert sum(f"✓ {step}: reused" in text for text in said) == 1, said


def test_a_build_that_is_interrupted_stops_its_container_and_goes_on_later(
    rehearsal: Rehearsal, standins: Daemon
) -> None:
    process = rehearsal.start("build", ENGINE)
    assert process.stderr is not None
    with process.stderr as stream:
        for line in stream:
            if line.startswith("▸ engine "):
                break
        time.sleep(0.4)
        process.terminate()
        rest = stream.read()
    assert process.wait() == 143, rest
    assert "Traceback" not in rest
    assert _left_containers(standins, rehearsal) == []
    document = json.loads(rehearsal.run("build", ENGINE, "--json").stdout)
    assert {step["name"]: step["reused"] for step in document["steps"]}["convert"] is True
