"""A build that has nothing to do: a model of 30 shards of 5 GB lies in the store; how long, and what is read?

    .venv/bin/python benchmarks/noop_build.py [--runs 5]

It makes a store of sparse files (150 GB that take no space), whose hash is computed once, then times the command as a
user starts it: the whole build with its bundle, and for comparison the steps without it (`--until verify`). Exit
status 1 where the whole takes longer than 0.3 s, or where a thousandth of the artifact is read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from orchestrator.app.make_plan import make_plan  # noqa: E402
from orchestrator.app.runner import Runner  # noqa: E402
from orchestrator.catalog.load import Catalog  # noqa: E402 - the path comes first
from orchestrator.catalog.project import Project  # noqa: E402
from orchestrator.events import silence  # noqa: E402
from orchestrator.recipe.load import RecipeBook  # noqa: E402
from orchestrator.store import store as stores  # noqa: E402
from orchestrator.store.artifact import StoredFile, list_files  # noqa: E402
from tests.support.fake import FakeRun  # noqa: E402
from tests.support.leavings import RECIPE, checkpoint, tiny_executor  # noqa: E402

SHARDS = 30
SHARD = 5 * 10**9
LIMIT = 0.3
"""Seconds."""
_HOLE = b"\0" * (1 << 24)

_WATCHED = """\
import atexit, sys
def tell():
    fields = dict(line.split(": ") for line in open("/proc/self/io"))
    print("READ", fields["rchar"].strip(), file=sys.stderr)
atexit.register(tell)
sys.argv = ["orchestrator", *sys.argv[1:]]
from orchestrator.cli.main import main
main()
"""


def prepare(folder: Path) -> int:
    """Build the tiny recipe with a first step that leaves sparse shards; returns the artifact's size."""

    def shards(run: FakeRun) -> None:
        checkpoint(run)
        for number in range(SHARDS):
            with (run.output / f"shard-{number:05}.bin").open("wb") as file:
                file.truncate(SHARD)

    executor = tiny_executor()
    executor.commands = {**executor.commands, "generate": shards}
    vars(stores)["hash_files"] = hash_quickly
    catalog = Catalog(Project(ROOT))
    plan = make_plan(RecipeBook(ROOT / "recipes").load(RECIPE).recipe, catalog, None)
    runner = Runner(stores.Store(folder / "store"), {"process": lambda: executor}, silence)
    return runner.run(plan)[0].artifact.size


def hash_quickly(folder: Path, _checked: object) -> tuple[StoredFile, ...]:
    """Hash as the store does; a hole of a known size is hashed once."""
    found = []
    for path in list_files(folder):
        status = path.stat()
        is_hole = status.st_blocks == 0 and status.st_size
        digest = hash_of_hole(status.st_size) if is_hole else hashlib.sha256(path.read_bytes()).hexdigest()
        found.append(StoredFile(path.relative_to(folder).as_posix(), status.st_size, digest))
    return tuple(found)


@cache
def hash_of_hole(size: int) -> str:
    """Hash that many zeros."""
    digest = hashlib.sha256()
    for done in range(0, size, len(_HOLE)):
        digest.update(_HOLE[: size - done])
    return digest.hexdigest()


def run_once(folder: Path, *more: str) -> tuple[float, float, int]:
    """Build again as a user does; returns the seconds, those of the steps, and the bytes read, code included."""
    places = ["--project", ROOT, "--store", folder / "store", "--dist", folder / "dist"]
    command = [sys.executable, "-c", _WATCHED, *map(str, places), "build", RECIPE, *more, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    steps = json.loads(done.stdout)["steps"]
    if not all(step["reused"] for step in steps):
        message = f"something was made again: {steps}"
        raise SystemExit(message)
    return seconds, sum(step["seconds"] for step in steps), int(done.stderr.split("READ")[1])


def start_python() -> float:
    """Time an interpreter that does nothing, for comparison."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.perf_counter() - started


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = prepare(folder)
        run_once(folder)  # compiles what was not, and writes the bundle
        measured, unbundled = [], []
        for _ in range(runs):
            measured.append(run_once(folder))
            unbundled.append(run_once(folder, "--until", "verify")[0])
        stores.remove_tree(folder / "store")
    seconds = statistics.median(second for second, _, _ in measured)
    in_steps = statistics.median(second for _, second, _ in measured)
    read = max(count for _, _, count in measured)
    slow, much = seconds > LIMIT, read > size // 1000
    sys.stdout.write(
        f"artifact: {SHARDS} files of {SHARD / 1e9:.0f} GB, {size / 1e9:.1f} GB\n"
        f"no-op build: {seconds:.3f} s (median of {runs}, limit {LIMIT} s) {'TOO SLOW' if slow else 'ok'}\n"
        f"without the bundle: {statistics.median(unbundled):.3f} s; of which the steps: {in_steps:.3f} s\n"
        f"an interpreter that does nothing: {start_python():.3f} s\n"
        f"bytes read: {read / 1e6:.1f} MB, code included; {size / read:.0f} times less than the artifact"
        f" {'TOO MUCH' if much else 'ok'}\n"
    )
    return int(slow or much)


if __name__ == "__main__":
    sys.exit(main())
