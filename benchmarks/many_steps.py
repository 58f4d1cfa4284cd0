"""Many steps: the cost of one among a thousand, and forty recipes whose steps sleep on a Slurm of two nodes.

    .venv/bin/python benchmarks/many_steps.py [--seconds 10] [--recipes 40]

The first part runs plans of 100 and 1,000 steps that do nothing, and then finds their results again: a step of the long
plan may take 1.25 times as much of the processor as one of the short plan. Its seconds are printed beside it; most of
them pass while the disk writes results out. The second part builds forty recipes by `build --executor slurm` on four
processors of two nodes. Both steps of a recipe sleep before they work, and all of it may take 1.3 times as long as the
sleeping alone. Exit status 1: a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
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
from orchestrator.app.record import recorded  # noqa: E402
from orchestrator.app.runner import Runner  # noqa: E402
from orchestrator.catalog.load import Catalog  # noqa: E402
from orchestrator.catalog.project import Project  # noqa: E402
from orchestrator.events import silence  # noqa: E402
from orchestrator.recipe.load import RecipeBook  # noqa: E402
from orchestrator.steps.step import Input, Output, Step  # noqa: E402
from orchestrator.store.store import Store, remove_tree  # noqa: E402
from tests.support.fake import FakeExecutor, FakeRun  # noqa: E402
from tests.support.leavings import RECIPE  # noqa: E402
from tests.support.slurm import NODES, NoSlurmError, Slurm, cluster_text, slurm_in  # noqa: E402

SHORT, LONG = 100, 1000
TIMES_SHORT = 3
"""The short plan runs so many times, and the median counts."""
MOST_GROWTH = 1.25
SLEEPING_STEPS = ("generate", "quantize")
PROCESSORS = 2 * len(NODES)
MOST_OVER_IDEAL = 1.3

_SLEEPER = """\
# Each Python with this folder in PYTHONPATH reads this file. Only the process of a step loads its payload.
import sys, time
class Sleeper:
    @staticmethod
    def find_spec(name, path, target=None):
        if name in {modules!r}:
            time.sleep({seconds})
sys.meta_path.insert(0, Sleeper)
"""


def write(run: FakeRun) -> None:
    """Leave a result."""
    (run.output / "x").write_text(run.argv[1])


def cost_of_a_step(count: int) -> dict[str, tuple[float, float]]:
    """Run a plan of so many steps, each of which reads the one before, and find its results again.

    Returns:
        The seconds of the processor and of the clock for a step that runs and for one whose result is found.
    """
    names = [f"step-{number:04}" for number in range(count)]
    inputs = {name: (Input(before, "/before"),) for before, name in pairwise(names)}
    steps = (Step(name, ("command", name), (Output("x"),), inputs=inputs.get(name, ())) for name in names)
    plan = make_plan(RecipeBook(ROOT / "recipes").load(RECIPE).recipe, Catalog(Project(ROOT)), None)
    plan = replace(plan, steps=tuple(PlacedStep(step, "process") for step in steps))
    executor, costs = FakeExecutor(dict.fromkeys(names, write)), {}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        for what in ("run", "found again"):
            began, started = time.process_time(), time.perf_counter()
            with recorded(store, RECIPE, names, silence) as recorder:
                results = Runner(Store(store), {"process": lambda: executor}, recorder).run(plan)
            costs[what] = (time.process_time() - began) / count, (time.perf_counter() - started) / count
            if [result.reused for result in results] != [what == "found again"] * count:
                message = "a step ran that has a result, or the reverse"
                raise SystemExit(message)
        remove_tree(store)  # results are read-only
    return costs


def growth_of_a_step() -> list[Goal]:
    """Compare a step of a long plan with one of a short plan."""
    shorts, long, goals = [cost_of_a_step(SHORT) for _ in range(TIMES_SHORT)], cost_of_a_step(LONG), []
    for what in long:
        short = sorted(each[what] for each in shorts)[TIMES_SHORT // 2]
        for (busy, whole), count in ((short, SHORT), (long[what], LONG)):
            print(f"a step {what}, of {count}: {1000 * busy:.2f} ms of the processor, {1000 * whole:.2f} ms in all")
        goals.append(Goal(f"growth of a step's processor time, {what}", long[what][0] / short[0], MOST_GROWTH))
    return goals


def seconds_on_slurm(slurm: Slurm, count: int, seconds: float) -> float:
    """Build recipes whose steps sleep, and return the seconds until the command has ended."""
    code = slurm.folder / "code"
    for part in ("orchestrator", "docker", "recipes"):
        shutil.copytree(ROOT / part, code / part)
    modules = [f"orchestrator.payloads.{step}" for step in SLEEPING_STEPS]
    (code / "sitecustomize.py").write_text(_SLEEPER.format(seconds=seconds, modules=modules))
    (slurm.folder / "cluster.yaml").write_text(cluster_text(minutes=10))
    for number in range(count):
        fields = {"extends": RECIPE, "name": f"r{number:02}", "description": "Its steps sleep first."}
        (code / f"r{number:02}.yaml").write_text(json.dumps({**fields, "model": {"generate": {"seed": number + 1}}}))
    places = ("--project", str(code), "--store", str(slurm.folder / "store"), "--dist", str(slurm.folder / "dist"))
    recipes = sorted(map(str, code.glob("r*.yaml")))
    wanted = ("--executor", "slurm", "--cluster", str(slurm.folder / "cluster.yaml"), "--until", SLEEPING_STEPS[-1])
    command = (sys.executable, "-m", "orchestrator.cli.main", *places, "build", *recipes, *wanted, "--json")
    variables = {"PATH": os.environ["PATH"], "HOME": str(slurm.folder), "PYTHONPATH": str(code)}
    variables["SLURM_CONF"] = slurm.environment["SLURM_CONF"]
    started = time.perf_counter()
    # Python looks for modules in the working directory first.
    done = subprocess.run(command, cwd=code, env=variables, capture_output=True, check=False, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    ran = [step["seconds"] for recipe in json.loads(done.stdout) for step in recipe["steps"] if not step["reused"]]
    if len(ran) != count * len(SLEEPING_STEPS) or min(ran) < seconds:
        message = f"{len(ran)} steps ran, the shortest for {min(ran, default=0):.1f} s"
        raise SystemExit(message)
    print(f"{count} recipes of {len(SLEEPING_STEPS)} steps that sleep {seconds:g} s: {took:.1f} s in all;", end=" ")
    print(f"a step took {sum(ran) / len(ran):.1f} s, the longest {max(ran):.1f} s")
    return took


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for which each step sleeps (%(default)s)")
    parser.add_argument("--recipes", type=int, default=40, help="how many are built at once (%(default)s)")
    given = parser.parse_args()
    goals = growth_of_a_step()
    work = given.recipes * len(SLEEPING_STEPS) * given.seconds
    ideal = max(len(SLEEPING_STEPS) * given.seconds, work / PROCESSORS)
    try:
        with slurm_in() as slurm:
            took = seconds_on_slurm(slurm, given.recipes, given.seconds)
        goals.append(Goal("time over the ideal on Slurm", took / ideal, MOST_OVER_IDEAL))
    except NoSlurmError as error:
        print(f"without Slurm: {error}")
    return int(missed(goals))


if __name__ == "__main__":
    sys.exit(main())
