"""Kills builds, again and again, and looks whether anything was lost, done twice or left over; seeded."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from orchestrator.app import garbage
from orchestrator.executors.docker import LeftContainer
from orchestrator.store.store import Store, remove_tree
from tests.chaos.crashing import NOWHERE, ONLY_IN_CONTAINERS, POINTS, build
from tests.chaos.downloading import POINTS as DOWNLOADING

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.chaos.crashing"])
MEASURED = frozenset({"verify", "benchmark"})
"""Steps that leave measured seconds: never the same bytes twice."""
_PATIENCE = 120.0
_LOCKS = ".locks"
"""The folder of locks that the Hub's own client keeps in its cache."""


class ViolationError(AssertionError):
    """Something that must hold did not."""


@dataclass(frozen=True)
class World:
    """What is built, and where; what Docker knows of it, if there is Docker."""

    project: Path
    recipe: str
    environment: Mapping[str, str]
    containers: bool = False
    left: Callable[[Path], list[LeftContainer]] = lambda _: []
    """The containers whose output lies below a folder."""
    starts: Callable[[Path, float], Counter[str]] = lambda _folder, _since: Counter()
    """How often a container of each key was started since a moment, for outputs below a folder."""
    longest: float = 2.5
    """Seconds; about what an undisturbed build takes."""
    downloads: bool = False
    """Its first step is a download."""
    inside: Callable[[Path], Mapping[str, str]] = lambda _: {}
    """More variables, for builds whose store is in a folder."""
    wrong: Callable[[Path], list[str]] = lambda _: []
    """What went wrong in a round in that folder, besides what is looked for in every world."""


@dataclass
class Tally:
    """What a run of chaos did."""

    kills: int = 0
    rounds: int = 0
    points: Counter[str] = field(default_factory=Counter)


@dataclass
class Chaos:
    """Rounds of kills over one world."""

    world: World
    folder: Path
    seed: int
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - chaos that can be repeated
        self._undisturbed = self._digests(self.folder / "undisturbed")

    def round(self, orchestrators: int, kills: int) -> None:
        """Kill builds of a fresh store until so many died or one got through; then build undisturbed and look.

        Raises:
            ViolationError: With the seed.
        """
        place = self.folder / f"round-{self.tally.rounds}"
        place.mkdir(parents=True)
        since, before = time.time(), self.tally.kills
        while self.tally.kills - before < kills and not self._one_gets_through(place, orchestrators):
            pass
        digests = self._digests(place)
        self._look(place, digests, since)
        remove_tree(place)
        self.tally.rounds += 1

    def _one_gets_through(self, place: Path, orchestrators: int) -> bool:
        victims = [self._start(place, *self._doom()) for _ in range(orchestrators)]
        deadline = time.monotonic() + self._random.choice((0.3, 1.0, 1.0)) * self._random.uniform(0, self.world.longest)
        while time.monotonic() < deadline and any(victim.is_alive() for victim in victims):
            time.sleep(0.01)
        for victim in victims:
            if victim.is_alive() and victim.pid:
                os.kill(victim.pid, signal.SIGKILL)
                self.tally.points["at any time"] += 1
            victim.join(_PATIENCE)
        statuses = [victim.exitcode for victim in victims]
        self.tally.kills += statuses.count(-signal.SIGKILL)
        if any(status not in (0, -signal.SIGKILL) for status in statuses):
            self._violated(place, f"a build ended with {statuses}")
        return 0 in statuses

    def _doom(self) -> tuple[str, int]:
        """Choose where a build is to die: at a named point, or when its time has come."""
        points = [point for point in POINTS if self._comes_to(point)]
        if self.world.downloads:  # the other worlds see enough of the rest
            points += 4 * [point for point in points if point in DOWNLOADING]
        point = self._random.choice((NOWHERE, *points, *points))
        if point != NOWHERE:
            self.tally.points[point] += 1
        return point, self._random.choice((1, 1, 1, 2, 3, 4))

    def _comes_to(self, point: str) -> bool:
        if point in DOWNLOADING:
            return self.world.downloads
        return self.world.containers or point not in ONLY_IN_CONTAINERS

    def _start(self, place: Path, point: str, count: int) -> ForkServerProcess:
        arguments = [
            *("--project", str(self.world.project)),
            *("--store", str(place / "store")),
            *("--dist", str(place / "dist")),
            *("build", self.world.recipe, "--json"),
        ]
        environment = {**self.world.environment, **self.world.inside(place), "CHAOS_TRACE": str(place / "trace")}
        said = place / ("said" if point != NOWHERE or count else "document")
        process = _FORKS.Process(target=build, args=(point, count, arguments, said, environment))
        process.start()
        return process

    def _digests(self, place: Path) -> dict[str, str]:
        """Build undisturbed and give the digest of what each step left."""
        place.mkdir(parents=True, exist_ok=True)
        process = self._start(place, NOWHERE, 0)
        process.join(_PATIENCE)
        said = (place / "document").read_text()
        if process.exitcode != 0:
            self._violated(place, f"an undisturbed build ended with {process.exitcode}: {said}")
        document = json.loads(said[said.index("\n{") if not said.startswith("{") else 0 :])
        return {step["name"]: step["digest"] for step in document["steps"]}

    def _look(self, place: Path, digests: dict[str, str], since: float) -> None:
        store = Store(place / "store")
        wrong = [name for name in digests if name not in MEASURED and digests[name] != self._undisturbed[name]]
        wrong += [name for name in self._undisturbed if name not in digests]
        if wrong:
            self._violated(place, f"other bytes than undisturbed: {wrong}")
        for artifact in store.artifacts():
            store.check(artifact)
        if len(list(store.artifacts())) != len(digests):
            self._violated(place, "there are other artifacts than steps")
        self._look_for_leftovers(place, store)
        wrong_here = self.world.wrong(place)
        if wrong_here:
            self._violated(place, "; ".join(wrong_here))
        self._look_for_repetitions(place, since)

    def _look_for_leftovers(self, place: Path, store: Store) -> None:
        left = [path.name for path in (*store.attempts(), *store.root.glob("aside/*"), *store.root.glob("uses/*"))]
        hidden = (*(place / "store").rglob(".*"), *(place / "dist").glob(".*"), *(place / "hf").rglob(".*"))
        left += [str(path.relative_to(place)) for path in hidden if path.name != _LOCKS]
        left += [found.name for found in self.world.left(place)]
        left += [f"process {number}" for number in processes_at(place)]
        found = garbage.find_garbage(store, frozenset(a.key for a in store.artifacts()), ())
        left += [item.name for item in found.garbage]
        if left:
            self._violated(place, f"left over: {left}")

    def _look_for_repetitions(self, place: Path, since: float) -> None:
        ran: set[str] = set()
        sealed: set[str] = set()
        published: set[str] = set()
        for line in (place / "trace").read_text().splitlines():
            word, key = line.split()
            if word == "run" and key in sealed:
                self._violated(place, f"{key} was run again after it had ended well")
            if word == "published" and key in published:
                self._violated(place, f"{key} was published twice")
            {"run": ran, "sealed": sealed, "published": published}[word].add(key)
        starts = self.world.starts(place, since)
        if any(count != 1 for count in starts.values()):
            self._violated(place, f"containers were started more than once: {starts}")
        nowhere = published - ran - set(starts)
        if nowhere:
            self._violated(place, f"published and never started: {nowhere}")

    def _violated(self, place: Path, what: str) -> None:
        said = (place / "said").read_text()[-3000:] if (place / "said").is_file() else ""
        message = f"seed {self.seed}, round {self.tally.rounds}: {what}\n{place}\n{said}"
        raise ViolationError(message)


def processes_at(folder: Path, patience: float = 5.0) -> list[int]:
    """Find processes with a folder in their arguments; those of a killed build have a moment to be gone."""
    deadline = time.monotonic() + patience
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes()
            except OSError:
                continue
            if re.search(re.escape(f"{folder}/").encode(), words):
                found.append(int(entry.parent.name))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def tell(tally: Tally, seed: int, what: str) -> None:
    """Print what was done."""
    named = sum(tally.points.values()) - tally.points["at any time"]
    sys.stdout.write(
        f"chaos: {what}, seed {seed}: {tally.kills} kills in {tally.rounds} rounds, "
        f"{named} of them ordered at {len(tally.points) - 1} named points, 0 violations\n"
    )
    sys.stdout.flush()
