"""What chaos is let loose on: the tiny recipe in processes, a rehearsed one in containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from orchestrator.executors.docker import LeftContainer
from orchestrator.executors.docker_arguments import LABEL, MANAGED
from orchestrator.hub.partial import CHUNK
from tests.chaos.harness import World
from tests.support.docker_daemon import Daemon
from tests.support.hub import Hub
from tests.support.leavings import RECIPE
from tests.support.rehearsal import ONEPASS, Rehearsal

ROOT = Path(__file__).resolve().parents[2]
_DOWNLOADED = "chaos-download"
_RECIPE = {
    "schema_version": 1,
    "name": _DOWNLOADED,
    "description": "A small model from a Hub on this machine",
    "model": {"repo": "owner/model", "license": "mit", "architecture": "LlamaForCausalLM", "parameters": 47.6e6},
    "target": "cpu",
    "image": "tensorrt-llm-1.3.0rc24",
    "quantization": {"format": "w4a16_nvfp4", "method": "onepass"},
    "benchmark": None,
}
_MODEL = ("--hidden-size", "1024", "--intermediate-size", "4096", "--layers", "3", "--shards", "3")
"""Three files of 32 MiB: four chunks each."""
_RATE = 20e6
"""Bytes a second of each connection: a file takes some 1.7 seconds."""
_ON_THE_WAY = 8 << 20
"""Bytes that may be in the buffers of the system when a process is killed."""


def process_world(home: Path) -> World:
    """The tiny recipe; its steps are processes, which die with their orchestrator."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home)}
    return World(ROOT, RECIPE, environment)


def download_world(hub: Hub, folder: Path) -> World:
    """A recipe whose model comes from a Hub on this machine, in files of some chunks each, slowly."""
    project, model = folder / "project", folder / "model"
    shutil.copytree(ROOT / "docker", project / "docker")
    (project / "recipes").mkdir()
    (project / "recipes" / f"{_DOWNLOADED}.yaml").write_text(json.dumps(_RECIPE), encoding="utf-8")
    model.mkdir()
    generate = ["-m", "orchestrator.payloads.generate", "--output", str(model), "--seed", "1", *_MODEL]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    subprocess.run([sys.executable, *generate], env=environment, check=True, capture_output=True)
    hub.files = {file.name: file.read_bytes() for file in model.iterdir()}
    hub.rate = _RATE

    places: list[Path] = []

    def inside(place: Path) -> dict[str, str]:
        if place not in places[-1:]:
            places.append(place)
            hub.sent.clear()
        return {"HF_HOME": str(place / "hf"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def wrong(place: Path) -> list[str]:
        found = [f"{path} was fetched again from {at}" for path, at in _fetched_again(hub)]
        cached = (place / "hf" / "hub").rglob("*")
        found += [f"left in the cache: {path.name}" for path in cached if _left_by_us(path)]
        return found

    return World(project, _DOWNLOADED, environment, longest=5.0, downloads=True, inside=inside, wrong=wrong)


def _fetched_again(hub: Hub) -> Iterator[tuple[str, int]]:
    """Name requests that asked for more of what had been sent before than a killed worker may lose."""
    ends: dict[str, int] = {}
    for sent in hub.sent:
        if ends.get(sent.path, 0) - sent.start > 2 * CHUNK + _ON_THE_WAY:
            yield sent.path, sent.start
        ends[sent.path] = sent.start + sent.size


def _left_by_us(path: Path) -> bool:
    return path.name.endswith((".incomplete", ".journal", ".new", ".orchestrator")) or "aside" in path.parts


def container_world(daemon: Daemon, folder: Path) -> World:
    """A rehearsed recipe; its steps are containers, which outlive their orchestrator. Needs the stand-ins' images."""
    rehearsal = Rehearsal.make(folder, daemon)

    def left(below: Path) -> list[LeftContainer]:
        return [found for found in daemon.executor().containers() if found.output.is_relative_to(below)]

    def starts(below: Path, since: float) -> Counter[str]:
        with closing(daemon.connect()) as client:
            events = client.events(
                since=int(since) - 1,
                until=int(time.time()) + 1,  # a moment with fractions finds nothing
                decode=True,
                filters={"type": "container", "event": "start", "label": f"{MANAGED}=1"},
            )
            labels = [event["Actor"]["Attributes"] for event in events]
        return Counter(each[LABEL + "key"] for each in labels if Path(each[LABEL + "output"]).is_relative_to(below))

    return World(folder, ONEPASS, dict(rehearsal.environment), containers=True, left=left, starts=starts, longest=9.0)
