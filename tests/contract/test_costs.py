"""What a real quantization cost: shown for whoever made it and for whoever uses it again, and never in its bytes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import orchestrator

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tiny-llama-w4a16-nvfp4"


@dataclass(frozen=True)
class Place:
    """A store of its own, and the command on it."""

    folder: Path

    def run(self, *arguments: str) -> str:
        places = ["--project", str(ROOT), "--store", str(self.folder / "store"), "--dist", str(self.folder / "dist")]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.folder)}
        done = orchestrator(*places, *arguments, environment=environment, folder=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def quantize(self) -> dict[str, Any]:
        """What `status` says of the step."""
        [build] = json.loads(self.run("status", RECIPE, "--json"))
        found: dict[str, Any] = next(step for step in build["steps"] if step["name"] == "quantize")
        return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A build that made everything, and one that used it again."""
    place = Place(tmp_path_factory.mktemp("built"))
    place.run("build", RECIPE, "--until", "quantize")
    made = place.quantize()
    place.run("verify", RECIPE, "--html", str(place.folder / "page.html"))
    again = place.quantize()
    assert [made["state"], again["state"]] == ["done", "reused"]
    assert made["cost"] == again["cost"]
    return place


def test_a_build_that_uses_a_result_again_shows_what_it_had_cost(built: Place) -> None:
    cost = built.quantize()["cost"]
    spent = cost["spent"]
    assert set(spent["seconds"]) == {"read", "encode", "write"}
    assert 0 < cost["seconds"] < 100
    assert spent["bytes_read"] > spent["bytes_written"] > 1_000_000
    assert 10_000_000 < spent["peak_memory"] < 300 << 20
    assert (spent["device"], spent["peak_device_memory"]) == ("cpu", 0)


def test_status_and_logs_say_it_in_words(built: Place) -> None:
    shown = built.run("status", RECIPE)
    assert "cost of each step" in shown
    assert "read " in shown.partition("time by phase")[2]
    assert "cost: read " in built.run("logs", RECIPE, "quantize")


def test_the_page_with_the_heat_map_has_it_too(built: Place) -> None:
    page = (built.folder / "page.html").read_text(encoding="utf-8")
    assert page.index("<svg") < page.index("What making it cost")
    assert 'data-label="peak memory"' in page


def test_two_machines_make_the_same_bytes_at_other_costs(built: Place, tmp_path: Path) -> None:
    other = Place(tmp_path)
    other.run("build", RECIPE, "--until", "quantize")
    ours, theirs = built.quantize(), other.quantize()
    assert ours["key"] == theirs["key"]
    assert _manifest(built, ours["key"]) == _manifest(other, theirs["key"])
    assert ours["cost"]["seconds"] != theirs["cost"]["seconds"]


def _manifest(place: Place, key: str) -> str:
    return (place.folder / "store" / "artifacts" / key / "manifest.json").read_text()
