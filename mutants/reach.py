"""Measures which tests reach which lines: each test runs once with coverage, under its own name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest

from mutants.areas import Area
from mutants.imports import Imports

_SETTINGS = """\
[run]
include =
{include}
data_file = {folder}/coverage
disable_warnings = no-data-collected, module-not-imported, couldnt-parse
"""


@dataclass(frozen=True)
class Reach:
    """Which tests reach which lines, and how long each test takes."""

    lines: Mapping[str, Mapping[int, AbstractSet[str]]]
    """For each module and line the tests that run it; a line that only runs on import is not there."""
    seconds: dict[str, float]
    """The time of each test that passes without a change, in order of the run."""
    failed: tuple[str, ...]
    """The tests that fail without a change."""
    digests: Mapping[str, str]
    """For each file of tests the digest of what it imports."""

    def digest(self, tests: Iterable[str]) -> str:
        """Return a digest of tests and of what their files import."""
        names = list(tests)
        known = sorted({self.digests[_file_of(test)] for test in names})
        return hashlib.sha256("\n".join([*names, *known]).encode()).hexdigest()

    def tests(self, module: str, line: int, elsewhere: tuple[str, ...], most: float) -> list[str]:
        """Return the tests for a change of a line, the quickest first.

        A line that runs on import is reached by every test of its module.

        Args:
            module: The module.
            line: The line.
            elsewhere: Files and folders whose tests run the code in other processes.
            most: The seconds that the tests may take together.
        """
        lines = self.lines.get(module, {})
        near = set(lines.get(line) or set().union(*lines.values()))
        far = {test for test in self.seconds if test.startswith(elsewhere)} - near if elsewhere else set()
        chosen, spent = [], 0.0
        for test in (*sorted(near & self.seconds.keys(), key=self._order), *sorted(far, key=self._order)):
            spent += self.seconds[test]
            if spent > most:
                break
            chosen.append(test)
        return chosen

    def _order(self, test: str) -> tuple[float, str]:
        return round(self.seconds[test], 1), test


def measure(trees: Sequence[Path], folder: Path, tests: Sequence[str], areas: Sequence[Area]) -> Reach:
    """Run the tests that can reach the areas, each once, with coverage.

    What a file of tests reaches is kept in the folder for as long as nothing changes that it imports. Each folder of
    tests is kept when it is done, so that a run that is stopped goes on there. Tests may fail; the result names them.

    Args:
        trees: Copies of the project; as many processes run tests.
        folder: Where the results are kept.
        tests: Files and folders of tests, relative to a tree.
        areas: What they have to reach.

    Raises:
        subprocess.CalledProcessError: The tests could not be run.
    """
    kept = folder / "reach.json"
    entries = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    wanted = dict(_wanted(trees[0], tests, areas))
    ahead = defaultdict(list)
    for file, entry in wanted.items():
        old = entries.get(file, {})
        if old.get("digest") != entry["digest"] or not set(entry["areas"]) <= set(old["areas"]):
            ahead[str(Path(file).parent)].append(file)
    runs = sum(map(len, ahead.values()))
    sys.stdout.write(
        f"running {runs} of the {len(wanted)} files of tests that can reach it, to learn what they reach …\n"
    )
    sys.stdout.flush()
    free = list(trees)

    def run(files: list[str]) -> dict[str, Any]:
        tree = free.pop()
        try:
            return _run(tree, folder, files, areas)
        finally:
            free.append(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        for done in as_completed([pool.submit(run, files) for files in ahead.values()]):
            entries |= {file: wanted[file] | found for file, found in done.result().items()}
            kept.write_text(json.dumps(entries), "utf-8")
    return _reach({file: entries[file] for file in wanted})


def _wanted(tree: Path, tests: Sequence[str], areas: Sequence[Area]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return the files of tests that can reach the areas, with which ones and the digest of what they import."""
    imports = Imports(tree)
    files = [file for name in tests for file in (sorted((tree / name).rglob("test_*.py")) or [tree / name])]
    modules = {area: frozenset(area.modules(tree)) for area in areas}
    for file in files:
        name = file.relative_to(tree).as_posix()
        reached = imports.reached(file)
        reaching = [area.name for area in areas if modules[area] & reached or name.startswith(area.elsewhere or "|")]
        if reaching:
            yield name, {"areas": reaching, "digest": imports.digest(reached)}


def _run(tree: Path, folder: Path, files: Sequence[str], areas: Sequence[Area]) -> dict[str, Any]:
    """Run files of tests; for each its tests, and the tests that reach each line, by their number."""
    place = folder / f"reach-{tree.name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    include = "\n".join(f"    {file}" for area in areas for file in area.modules(tree))
    (place / "coverage.ini").write_text(_SETTINGS.format(folder=place, include=include), "utf-8")
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={place / 'coverage.ini'}"]
    command += ["-m", "pytest", "-p", "mutants.reach", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    command += [f"--basetemp={place / 'tests'}", "--hypothesis-seed=0", "-m", "not docker", *files]
    variables = {
        **os.environ,
        "PYTHONPATH": f"{tree}{os.pathsep}{Path(__file__).resolve().parent.parent}",
        "ORCHESTRATOR_MUTANTS_TESTS": str(place / "tests.json"),
    }
    done = subprocess.run(command, cwd=tree, env=variables, check=False)
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        done.check_returncode()
    return _read(tree, place, files)


def _read(tree: Path, place: Path, files: Sequence[str]) -> dict[str, Any]:
    tests = json.loads((place / "tests.json").read_text("utf-8"))
    found: dict[str, Any] = {file: {"tests": {}, "lines": {}} for file in files}
    for test, each in tests.items():
        found[_file_of(test)]["tests"][test] = each
    numbers = {test: number for each in found.values() for number, test in enumerate(each["tests"])}
    data = coverage.CoverageData(str(place / "coverage"))
    data.read()
    for file in data.measured_files():
        module = Path(file).relative_to(tree).as_posix()
        for line, contexts in data.contexts_by_lineno(file).items():
            for test in filter(None, contexts):
                lines = found[_file_of(test)]["lines"].setdefault(module, {})
                lines.setdefault(str(line), []).append(numbers[test])
    return found


def _file_of(test: str) -> str:
    return test.partition("::")[0]


def _reach(entries: Mapping[str, dict[str, Any]]) -> Reach:
    lines: dict[str, dict[int, set[str]]] = {}
    tests: dict[str, dict[str, Any]] = {}
    for entry in entries.values():
        tests |= entry["tests"]
        names = list(entry["tests"])
        for module, reached in entry["lines"].items():
            of_module = lines.setdefault(module, {})
            for line, numbers in reached.items():
                of_module.setdefault(int(line), set()).update(names[number] for number in numbers)
    failed = tuple(test for test, each in tests.items() if each["failed"])
    seconds = {test: each["seconds"] for test, each in tests.items() if not each["failed"]}
    return Reach(lines, seconds, failed, {file: entry["digest"] for file, entry in entries.items()})


# What follows runs in pytest's process, as its plugin.

_SECONDS: defaultdict[str, float] = defaultdict(float)
_FAILED: Counter[str] = Counter()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Count what runs from here on for this test."""
    running = coverage.Coverage.current()
    if running:
        running.switch_context(item.nodeid)
    yield
    if running:
        running.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up how long a test takes."""
    if report.skipped:
        return
    _SECONDS[report.nodeid] += report.duration
    _FAILED[report.nodeid] += report.failed


def pytest_sessionfinish() -> None:
    """Write the tests."""
    file = os.environ.get("ORCHESTRATOR_MUTANTS_TESTS")
    if file:
        tests = {test: {"seconds": seconds, "failed": bool(_FAILED[test])} for test, seconds in _SECONDS.items()}
        Path(file).write_text(json.dumps(tests), "utf-8")
