"""Change the code in some hundred places, one at a time, and see whether the tests notice.

`make mutants` prints a table by area and every mutant that survives, and fails if too many do. docs/adr/0032 says how
mutants are chosen and tried.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import TypeAlias

import yaml

from mutants import reach
from mutants.areas import AREAS, TESTS, Area
from mutants.mutant import Mutant, sample
from mutants.trial import Ending, Outcome, load_libraries, tried

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "build" / "mutants"
_RESULTS = _BUILD / "endings.jsonl"
_EQUIVALENT = Path(__file__).with_name("equivalent.yaml")

_QUICKEST = 20
"""Tests of each area that have to pass without a change before any mutant is tried."""
_Work: TypeAlias = tuple[Mutant, list[str], float]
"""A mutant, the tests that reach it, and how many seconds they take."""


@dataclass(frozen=True)
class Result:
    """What became of a mutant."""

    mutant: Mutant
    outcome: Outcome

    @property
    def killed(self) -> bool:
        """Whether a test noticed it."""
        return self.outcome.ending in (Ending.KILLED, Ending.TIMED_OUT)


def main() -> int:
    """Run the command line; 1 if too few mutants were killed."""
    parser = argparse.ArgumentParser(
        prog="python -m mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="mutants in all, as many in each area (default: 300)")
    parser.add_argument("--seed", type=int, default=13, help="decides which (default: 13)")
    parser.add_argument("--area", action="append", choices=[area.name for area in AREAS], help="only this area")
    parser.add_argument("--least", type=float, default=90, help="percent that must be killed (default: 90)")
    parser.add_argument("--most-equivalent", type=float, default=5, help="percent that may be listed (default: 5)")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for one mutant at most (default: 60)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument(
        "--tests", nargs="+", default=TESTS, metavar="PATH", help="only these (default: unit, contract)"
    )
    given = parser.parse_args()
    started = time.monotonic()
    areas = [area for area in AREAS if not given.area or area.name in given.area]
    trees = _copies(given.processes)
    reached = reach.measure(trees, _BUILD, given.tests, areas)
    for test in reached.failed:
        sys.stdout.write(f"left out, because it fails without a change: {test}\n")
    mutants = sample(areas, trees[0], given.count, given.seed)
    sys.stdout.write(f"{len(mutants)} mutants, seed {given.seed}\n")
    results = list(_try_all(mutants, trees, reached, given.seconds))
    ok = report(results, areas, _equivalents(), least=given.least, most_equivalent=given.most_equivalent)
    sys.stdout.write(f"{(time.monotonic() - started) / 60:.0f} minutes\n")
    return 0 if ok else 1


def report(
    results: Sequence[Result],
    areas: Iterable[Area],
    equivalent: frozenset[tuple[str, ...]],
    *,
    least: float,
    most_equivalent: float,
) -> bool:
    """Print a table and the survivors; return whether enough were killed."""
    counts: Counter[tuple[str, str]] = Counter()
    survivors = []
    for result in results:
        listed = _entry(result.mutant) in equivalent
        ending = "killed" if result.killed else "equivalent" if listed else "survived"
        counts.update([(result.mutant.area, ending), ("all", ending)])
        if ending == "survived":
            survivors.append(result)
    for result in survivors:
        sys.stdout.write(f"\n{result.outcome.ending}: {result.mutant}\n")
    sys.stdout.write(f"\n{'area':<14}{'mutants':>9}{'killed':>9}{'equivalent':>12}{'survived':>10}{'killed':>9}\n")
    for name in (*(area.name for area in areas), "all"):
        killed, same, left = (counts[name, ending] for ending in ("killed", "equivalent", "survived"))
        share = _percent(killed, killed + left)
        sys.stdout.write(f"{name:<14}{killed + same + left:>9}{killed:>9}{same:>12}{left:>10}{share:>8.1f}%\n")
    killed, same, left = (counts["all", ending] for ending in ("killed", "equivalent", "survived"))
    enough = _percent(killed, killed + left) >= least
    few = _percent(same, len(results)) <= most_equivalent
    if not enough:
        sys.stdout.write(f"fewer than {least:g}% were killed: write tests that notice the survivors above\n")
    if not few:
        sys.stdout.write(f"more than {most_equivalent:g}% are listed as equivalent in {_EQUIVALENT.name}\n")
    return enough and few


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 100.0


def _copies(number: int) -> list[Path]:
    """Copy the files that git knows or would add, once for each process."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    files = [name for name in listed.stdout.split("\0") if name and (_ROOT / name).is_file()]
    trees = [_BUILD / f"tree-{place}" for place in range(number)]
    for tree in trees:
        shutil.rmtree(tree, ignore_errors=True)
        for name in files:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_ROOT / name, tree / name)
        # By content: a changed file has often the size and the second of the file that it replaces.
        command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "orchestrator"]
        subprocess.run(command, cwd=tree, check=True)
    return trees


def _try_all(mutants: Sequence[Mutant], trees: list[Path], reached: reach.Reach, seconds: float) -> Iterator[Result]:
    """Try each mutant that is not known, several at a time, and print how it ends."""
    load_libraries()
    context = multiprocessing.get_context("fork")
    free = context.SimpleQueue()
    for tree in trees:
        free.put(tree)
    areas = {area.name: area for area in AREAS}
    known, work = _known(), []
    for mutant in mutants:
        tests = reached.tests(mutant.site.module, mutant.site.line, areas[mutant.area].elsewhere, seconds)
        key = hashlib.sha256(f"{mutant.text}{reached.digest(tests)}".encode()).hexdigest()
        if key in known:
            yield Result(mutant, known[key])
        else:
            work.append((key, (mutant, tests, sum(reached.seconds[test] for test in tests))))
    sys.stdout.write(f"{len(mutants) - len(work)} are known from earlier runs\n")
    with context.Pool(len(trees), _take_tree, [free]) as pool, _RESULTS.open("a") as log:
        _require_soundness(pool, [each for _, each in work])
        results = pool.imap(_try, [each for _, each in work])
        for number, ((key, _), result) in enumerate(zip(work, results, strict=True), start=1):
            outcome = result.outcome
            sys.stdout.write(f"{number:>4} {outcome.ending:<10}{outcome.seconds:6.1f} s  {result.mutant}\n")
            sys.stdout.flush()
            log.write(json.dumps({"key": key, "mutant": str(result.mutant), **asdict(outcome)}) + "\n")
            log.flush()
            yield result


def _known() -> dict[str, Outcome]:
    """Read what became of mutants in earlier runs, each by its change, its tests and what these import."""
    lines = _RESULTS.read_text("utf-8").splitlines() if _RESULTS.is_file() else []
    found = (json.loads(line) for line in lines)
    return {each["key"]: Outcome(Ending(each["ending"]), each["noticed_by"], each["seconds"]) for each in found}


def _require_soundness(pool: Pool, work: Sequence[_Work]) -> None:
    """Exit if the quickest tests fail without any change: then no failure says anything about a mutant.

    Of slower tests, each that notices a mutant runs again without it.
    """
    first = {mutant.area: (mutant, tests[:_QUICKEST], seconds) for mutant, tests, seconds in reversed(work) if tests}
    for outcome in pool.imap(_try_unchanged, first.values()):
        if outcome.ending is Ending.KILLED:
            sys.exit(f"tests fail without a change, so that no mutant can be tried: {outcome.noticed_by}")


_TREE: list[Path] = []
"""In a process of the pool: its copy of the project."""
_SOUND: set[str] = set()
"""In a process of the pool: the tests that noticed a mutant, and that pass without one."""


def _take_tree(free: multiprocessing.SimpleQueue[Path]) -> None:
    _TREE.append(free.get())


def _try_unchanged(work: _Work) -> Outcome:
    mutant, tests, seconds = work
    tree, module = _TREE[0], mutant.site.module
    return tried(tree, module, (tree / module).read_text("utf-8"), tests, seconds)


def _try(work: _Work) -> Result:
    """Try a mutant, without the tests that fail without it as well: what is known of them may be old."""
    mutant, tests, seconds = work
    tree, module = _TREE[0], mutant.site.module
    original = (tree / module).read_text("utf-8")
    while True:
        outcome = tried(tree, module, mutant.text, tests, seconds)
        by, late = outcome.test_among(tests), Ending.TIMED_OUT
        if outcome.ending is late and tried(tree, module, original, tests, seconds).ending is late:
            seconds *= 4  # the machine is slow, the tests do not hang
        elif by is None or by in _SOUND:
            return Result(mutant, outcome)
        elif tried(tree, module, original, [by], seconds).ending is Ending.SURVIVED:
            _SOUND.add(by)
            return Result(mutant, outcome)
        else:
            sys.stdout.write(f"left out, because it fails without a change: {by}\n")
            tests = [test for test in tests if test != by]


def _entry(mutant: Mutant) -> tuple[str, ...]:
    return mutant.site.module, mutant.site.function, mutant.before, mutant.after


def _equivalents() -> frozenset[tuple[str, ...]]:
    """Read the mutants that do what the code does."""
    listed = yaml.safe_load(_EQUIVALENT.read_text("utf-8")) or []
    return frozenset((each["module"], each["function"], each["before"], each["after"]) for each in listed)


if __name__ == "__main__":
    sys.exit(main())
