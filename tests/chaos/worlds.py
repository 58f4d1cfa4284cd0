"""What chaos is let loose on: the tiny recipe in processes, a rehearsed one in containers."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from orchestrator.executors.docker import LeftContainer
from orchestrator.executors.docker_arguments import LABEL, MANAGED
from tests.chaos.harness import World
from tests.support.engine import Engine
from tests.support.leavings import RECIPE
from tests.support.rehearsal import ONEPASS, Rehearsal

ROOT = Path(__file__).resolve().parents[2]


def process_world(home: Path) -> World:
    """The tiny recipe; its steps are processes, which die with their orchestrator."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(home)}
    return World(ROOT, RECIPE, environment)


def container_world(engine: Engine, folder: Path) -> World:
    """A rehearsed recipe; its steps are containers, which outlive their orchestrator. Needs the stand-ins' images."""
    rehearsal = Rehearsal.make(folder, engine)

    def left(below: Path) -> list[LeftContainer]:
        return [found for found in engine.executor().containers() if found.output.is_relative_to(below)]

    def starts(below: Path, since: float) -> Counter[str]:
        with closing(engine.connect()) as client:
            events = client.events(
                since=int(since) - 1,
                until=int(time.time()) + 1,  # a moment with fractions finds nothing
                decode=True,
                filters={"type": "container", "event": "start", "label": f"{MANAGED}=1"},
            )
            labels = [event["Actor"]["Attributes"] for event in events]
        return Counter(each[LABEL + "key"] for each in labels if Path(each[LABEL + "output"]).is_relative_to(below))

    return World(folder, ONEPASS, dict(rehearsal.environment), containers=True, left=left, starts=starts, longest=9.0)
