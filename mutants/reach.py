"""Measures which tests reach which lines: every test runs once with coverage, and each under its own name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

_SETTINGS = """\
[run]
source = orchestrator
data_file = {folder}/coverage
disable_warnings = no-data-collected, module-not-imported, couldnt-parse
"""


@dataclass(frozen=True)
class Reach:
    """Which tests reach which lines, and how long each test takes."""

    lines: dict[str, dict[int, frozenset[str]]]
    """For each module and line the tests that run it; a line that runs on import has none."""
    seconds: dict[str, float]
    """The time of each test that passes without a change, in order of the run."""
    failed: tuple[str, ...]
    """The tests that fail without a change."""

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
        near = lines.get(line) or frozenset().union(*lines.values())
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


def measure(tree: Path, folder: Path, tests: Sequence[str]) -> None:
    """Run the tests with coverage and write what they reach into a folder. Tests may fail; `read` names them.

    Args:
        tree: The copy of the project.
        folder: Where the results go.
        tests: Files and folders of tests, relative to the tree.

    Raises:
        subprocess.CalledProcessError: The tests could not be run.
    """
    for old in (folder / "coverage", folder / "tests.json"):
        old.unlink(missing_ok=True)
    settings = folder / "coverage.ini"
    settings.write_text(_SETTINGS.format(folder=folder), "utf-8")
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-p", "mutants.reach"]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0", "-m", "not docker"]
    variables = {
        **os.environ,
        "PYTHONPATH": f"{tree}{os.pathsep}{Path(__file__).resolve().parent.parent}",
        "ORCHESTRATOR_MUTANTS_TESTS": str(folder / "tests.json"),
    }
    done = subprocess.run([*command, *options, *tests], cwd=tree, env=variables, check=False)
    if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        done.check_returncode()


def read(tree: Path, folder: Path) -> Reach:
    """Read what `measure` wrote."""
    data = coverage.CoverageData(str(folder / "coverage"))
    data.read()
    lines: dict[str, dict[int, frozenset[str]]] = {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file)
        module = Path(file).relative_to(tree).as_posix()
        lines[module] = {line: frozenset(tests) - {""} for line, tests in contexts.items()}
    tests = json.loads((folder / "tests.json").read_text("utf-8"))
    failed = tuple(test for test, each in tests.items() if each["failed"])
    seconds = {test: each["seconds"] for test, each in tests.items() if not each["failed"]}
    return Reach(lines, seconds, failed)


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
