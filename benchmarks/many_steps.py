"""Many steps: the cost of one among a thousand, and forty recipes whose steps sleep on a Slurm of two nodes.

    .venv/bin/python benchmarks/many_steps.py [--seconds 10]

The first part runs plans of 250 and 1,000 steps that do nothing, and then finds them again: a step of the long plan may
take 1.5 times as long as one of the short plan. The second part submits forty chains of two jobs, each of which sleeps,
to four processors on two nodes, and may take 1.3 times as long as the sleeping alone. Exit status 1: a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.support.goals import Goal, missed  # noqa: E402 - the path comes first
from orchestrator.app.make_plan import PlacedStep, make_plan  # noqa: E402
from orchestrator.app.runner import Runner  # noqa: E402
from orchestrator.catalog.load import Catalog  # noqa: E402
from orchestrator.catalog.project import Project  # noqa: E402
from orchestrator.events import silence  # noqa: E402
from orchestrator.executors.job import Job  # noqa: E402
from orchestrator.recipe.load import RecipeBook  # noqa: E402
from orchestrator.steps.step import Input, Output, Step  # noqa: E402
from orchestrator.store.store import Store, remove_tree  # noqa: E402
from tests.support.fake import FakeExecutor, FakeRun  # noqa: E402
from tests.support.leavings import RECIPE  # noqa: E402
from tests.support.slurm import NoSlurmError, slurm_in  # noqa: E402

SHORT, LONG = 250, 1000
MOST_GROWTH = 1.5
CHAINS, STEPS, PROCESSORS = 40, 2, 4
MOST_OVER_IDEAL = 1.3


def write(run: FakeRun) -> None:
    """Leave a result."""
    (run.output / "x").write_text(run.argv[1])


def seconds_per_step(count: int) -> tuple[float, float]:
    """Run a plan of so many steps, each of which reads the one before, and find its results again."""
    names = [f"step-{number:04}" for number in range(count)]
    inputs = {name: (Input(before, "/before"),) for before, name in pairwise(names)}
    steps = (Step(name, ("command", name), (Output("x"),), inputs=inputs.get(name, ())) for name in names)
    plan = make_plan(RecipeBook(ROOT / "recipes").load(RECIPE).recipe, Catalog(Project(ROOT)), None)
    plan = replace(plan, steps=tuple(PlacedStep(step, "process") for step in steps))
    executor, times = FakeExecutor(dict.fromkeys(names, write)), []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        for reused in (False, True):
            started = time.perf_counter()
            results = Runner(Store(store), {"process": lambda: executor}, silence).run(plan)
            times.append((time.perf_counter() - started) / count)
            if [result.reused for result in results] != [reused] * count:
                message = "a step ran that has a result, or the reverse"
                raise SystemExit(message)
        remove_tree(store)  # results are read-only
    return times[0], times[1]


def seconds_on_slurm(seconds: int) -> float:
    """Run the chains of jobs, and return the time until the queue is empty."""
    with slurm_in() as slurm:
        executor = slurm.executor()
        started = time.perf_counter()
        for chain in range(CHAINS):
            before = None
            for number in range(STEPS):
                output = slurm.folder / f"{chain}-{number}" / "out"
                key = f"{chain:04}{number:04}".ljust(64, "0")
                job = Job(f"step{number}", key, f"recipe{chain}", ("sleep", str(seconds)), output, ())
                before = executor.submit(job, before)
        submitted = time.perf_counter() - started
        while slurm.queue():
            time.sleep(0.5)
        took = time.perf_counter() - started
        endings = list(slurm.folder.glob("*-*/ending*"))
    print(
        f"{CHAINS} chains of {STEPS} jobs: submitted in {submitted:.1f} s, done in {took:.1f} s; {len(endings)} ended"
    )
    return took


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="for which each job sleeps (%(default)s)")
    seconds = parser.parse_args().seconds
    goals = []
    for what, short, long in zip(("run", "found again"), seconds_per_step(SHORT), seconds_per_step(LONG), strict=True):
        print(f"a step {what}: {1000 * short:.2f} ms of {SHORT}, {1000 * long:.2f} ms of {LONG}")
        goals.append(Goal(f"growth of a step's time, {what}", long / short, MOST_GROWTH))
    ideal = CHAINS * STEPS * seconds / PROCESSORS
    try:
        goals.append(Goal("time over the ideal on Slurm", seconds_on_slurm(seconds) / ideal, MOST_OVER_IDEAL))
    except NoSlurmError as error:
        print(f"without Slurm: {error}")
    return int(missed(goals))


if __name__ == "__main__":
    sys.exit(main())
