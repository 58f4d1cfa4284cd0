"""Times `plan` and the dry-run of all recipes as a user starts them, in new processes.

    .venv/bin/python benchmarks/plan.py [--runs 5]

A Hub on this machine has a model of 80 layers that the catalogue lacks. The first `plan` fetches the headers of its
weights by ranged requests, the others read them from the store. The dry-run is offline. Exit status 7 if a goal is
missed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.support.goals import Goal, missed  # noqa: E402 - the path comes first
from orchestrator.payloads import generate  # noqa: E402
from tests.support.hub import Hub, serve  # noqa: E402

_RECIPE = """\
name: measured
description: A model that the catalogue lacks.
extends: dgx-spark
model: {repo: owner/model, license: mit, architecture: LlamaForCausalLM, parameters: %d}
quantization: {format: bf16, method: none}
"""
_SIZES = ("--layers", "80", "--vocab-size", "320", "--hidden-size", "64")
_PARAMETERS = 2_000_000


def seconds(arguments: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Time one command, from the start of its interpreter to its end: seconds, and those of processors."""
    command = [sys.executable, "-m", "orchestrator.cli.main", *arguments]
    started, used = time.perf_counter(), _used()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started, _used() - used


def _used() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate.main(["--output", str(folder / "model"), *_SIZES])
        recipe = folder / "measured.yaml"
        recipe.write_text(_RECIPE % _PARAMETERS)
        hub = Hub(files={file.name: file.read_bytes() for file in (folder / "model").iterdir() if file.is_file()})
        with serve(hub) as served:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": served.endpoint, "HF_HOME": name}
            planned = ["--store", str(folder / "store"), "plan", str(recipe)]
            (first, _), requests = seconds(planned, environment), len(hub.fetched)
            later, busy = _median(seconds(planned, environment) for _ in range(runs))
            again = len(hub.fetched) - requests
        offline = {**environment, "HF_HUB_OFFLINE": "1"}
        dry = ["--store", str(folder / "store"), "build", "--dry-run", "--all"]
        every, all_busy = _median(seconds(dry, offline) for _ in range(runs))
    print(f"first plan: {first:.2f} s, {requests} files asked for; an interpreter that does nothing: {_python():.3f} s")
    print(f"seconds of processors: a later plan {busy:.2f}, the dry-run {all_busy:.2f}")
    return 7 * missed(
        [
            Goal("plan with headers in the store, seconds", later, 0.5),
            Goal("files asked for by the later plans", again, 0),
            Goal("dry-run of all recipes offline, seconds", every, 3),
        ]
    )


def _median(runs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    wall, busy = zip(*runs, strict=True)
    return statistics.median(wall), statistics.median(busy)


def _python() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
