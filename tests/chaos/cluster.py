"""Kills parts of a cluster and builds on it, at random. What a cluster has that can be killed, its own module says."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.store.store import Store, remove_tree
from tests.chaos.harness import MEASURED, ViolationError, processes_at
from tests.support.bench import wait_for

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tiny-llama-w4a16-nvfp4"
SMALL = ("--set", "model.generate.num_hidden_layers=1", "--until", "quantize")
_LOST = (5, 6)
"""Exit statuses of a build whose job or node was killed: a step that failed, a machine that was at fault."""
_FAULTS_OF_A_ROUND = 6
_PATIENCE = 180.0
_OVER_AGAIN = 4
"""Builds until one succeeds after the last fault: what was killed just before may still be found."""


Fault = Callable[[subprocess.Popen[bytes], Path], None]
"""Gets the build that runs, and the folder of the round."""


@dataclass
class ClusterChaos(ABC):
    """Rounds of faults, each with a store of its own."""

    folder: Path
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    rounds: int = 0

    @property
    @abstractmethod
    def executor(self) -> str:
        """The name of the executor."""

    @property
    @abstractmethod
    def kinds(self) -> Mapping[str, Fault]:
        """What may be killed, by its name."""

    @property
    @abstractmethod
    def variables(self) -> Mapping[str, str]:
        """By which a build finds the cluster."""

    @abstractmethod
    def settings(self) -> str:
        """Return cluster.yaml."""

    @abstractmethod
    def queue(self) -> list[str]:
        """Name the jobs that wait or run."""

    @abstractmethod
    def begin_round(self) -> None:
        """Prepare the cluster."""

    @abstractmethod
    def wait_until_it_answers(self) -> None:
        """Wait for the cluster."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - chaos that can be repeated
        (self.folder / "cluster.yaml").write_text(self.settings())
        self._undisturbed = self._digests(self.folder / "undisturbed")

    def round(self, faults: int) -> None:
        """Disturb builds of one recipe, then build undisturbed and look.

        Raises:
            ViolationError: With the seed.
        """
        place = self.folder / f"round-{self.rounds}"
        place.mkdir()
        self.begin_round()
        with published_in(place / "store") as published:
            self._disturb(place, faults)
            digests = self._digests(place)
        self._look(place, digests, published)
        remove_tree(place)
        self.rounds += 1

    def _disturb(self, place: Path, faults: int) -> None:
        """Make so many faults while a build runs. A build that was killed or ended is started again."""
        build = self._start(place)
        try:
            for _ in range(faults):
                with suppress(subprocess.TimeoutExpired):
                    build.wait(self._random.uniform(0.2, 2.5))
                if build.poll() is not None:
                    self._check_status(place, build.returncode)
                    build = self._start(place)
                kind = self._random.choice(tuple(self.kinds))
                self.faults[kind] += 1
                self.kinds[kind](build, place)
        finally:
            build.kill()
            build.wait()

    def kill_job(self, build: subprocess.Popen[bytes], place: Path) -> None:
        """Kill a process of a job: its script, the build in it or the step's command."""
        found = [pid for pid in processes_at(place / "store", patience=0) if pid != build.pid]
        if found:
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(found), signal.SIGKILL)

    def kill_build(self, build: subprocess.Popen[bytes], _place: Path) -> None:
        build.kill()
        build.wait()

    def _command(self, place: Path) -> list[str]:
        places = ["--project", str(ROOT), "--store", str(place / "store"), "--dist", str(place / "dist")]
        cluster = ["--executor", self.executor, "--cluster", str(self.folder / "cluster.yaml")]
        return [sys.executable, "-m", "orchestrator.cli.main", *places, "build", RECIPE, *SMALL, *cluster, "--json"]

    @property
    def _environment(self) -> Mapping[str, str]:
        kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(self.folder)}
        return {**kept, **self.variables}

    def _start(self, place: Path) -> subprocess.Popen[bytes]:
        with (place / "said").open("ab") as said:
            return subprocess.Popen(
                self._command(place), env=self._environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

    def _digests(self, place: Path) -> dict[str, str]:
        """Build undisturbed and give the digest of what each step left."""
        place.mkdir(exist_ok=True)
        self.wait_until_it_answers()
        for _ in range(_OVER_AGAIN):
            done = subprocess.run(
                self._command(place),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE,
            )
            if done.returncode == 0:
                return {step["name"]: step["digest"] for step in json.loads(done.stdout)["steps"]}
            with (place / "said").open("a") as said:
                said.write(done.stderr)
            self._check_status(place, done.returncode)
        self._violated(place, "no undisturbed build succeeds")
        return {}

    def _check_status(self, place: Path, status: int) -> None:
        if status not in (0, -signal.SIGKILL, *_LOST):
            self._violated(place, f"a build ended with {status}")

    def _look(self, place: Path, digests: dict[str, str], published: dict[str, set[int]]) -> None:
        store = Store(place / "store")
        wrong = [name for name in digests if name not in MEASURED and digests[name] != self._undisturbed[name]]
        if wrong or digests.keys() != self._undisturbed.keys():
            self._violated(place, f"other results than undisturbed: {wrong}, {sorted(digests)}")
        for artifact in store.artifacts():
            store.check(artifact)
        again = [key for key, folders in published.items() if len(folders) != 1]
        if again or len(published) != len(digests):
            self._violated(place, f"published more than once, or too much: {again}, {sorted(published)}")
        left = [*store.attempts(), *store.root.glob("jobs/*"), *store.root.glob("aside/*"), *store.root.glob("uses/*")]
        left += [path for path in (place / "store").rglob(".*") if path.is_file()]
        self._look_at_queue(place)
        if left:
            self._violated(place, f"left over: {[str(path.relative_to(place)) for path in left]}")

    def _look_at_queue(self, place: Path) -> None:
        """Look for jobs and their processes; a cluster takes a while to see what was killed."""
        try:
            wait_for(lambda: not self.queue(), 30)
        except AssertionError:
            self._violated(place, "jobs are left")
        if found := processes_at(place / "store"):
            self._violated(place, f"processes are left: {found}")

    def _violated(self, place: Path, what: str) -> None:
        said = (place / "said").read_text()[-3000:] if (place / "said").is_file() else ""
        message = f"seed {self.seed}, round {self.rounds}: {what}\n{place}\n{said}\n{self.queue()}"
        raise ViolationError(message)


@contextmanager
def published_in(store: Path) -> Iterator[dict[str, set[int]]]:
    """Note each folder that appears under a key in a store while the block runs, by its inode."""
    found: dict[str, set[int]] = {}
    ended = threading.Event()

    def look() -> None:
        while True:
            last = ended.is_set()  # before the look, so that it is complete
            for folder in (store / "artifacts").glob("*"):
                with suppress(FileNotFoundError):
                    found.setdefault(folder.name, set()).add(folder.stat().st_ino)
            if last:
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def run(chaos: ClusterChaos, faults: int) -> None:
    """Make rounds until there were so many faults, and print what was done."""
    while (left := faults - chaos.faults.total()) > 0:
        chaos.round(min(left, _FAULTS_OF_A_ROUND))
        made = ", ".join(f"{kind} {count}" for kind, count in sorted(chaos.faults.items()))
        sys.stdout.write(
            f"chaos: {chaos.executor}, seed {chaos.seed}: {chaos.rounds} rounds, killed {made}, 0 violations\n"
        )
        sys.stdout.flush()
