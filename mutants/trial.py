"""Runs the tests that reach a mutant, until the first one fails.

A mutant is a changed file in a copy of the project, so it also reaches code that other processes run. The tests run in
a fork of this process, which has the libraries loaded already and no module of the project.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import pytest

_LOADED = (
    "aiohttp.web", "click.testing", "docker", "dxf", "filelock", "httpx2", "huggingface_hub.hf_api", "hypothesis",
    "jinja2", "ml_dtypes", "numpy.testing", "openai", "opentelemetry.sdk.trace", "pydantic", "rich.progress",
    "safetensors.numpy", "tokenizers", "yaml",
)  # fmt: skip
"""Libraries that take long to load, besides the plugins of pytest."""


class Ending(StrEnum):
    """How a mutant ends."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"
    UNREACHED = "unreached"
    """No test reaches it, which is as bad as to survive."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    ending: Ending
    noticed_by: str = ""
    """The test that failed, as pytest's summary has it."""
    seconds: float = 0.0

    def test_among(self, tests: Iterable[str]) -> str | None:
        """Return the test that failed; None if none did, or if the process ended before pytest could say so."""
        said = self.noticed_by.partition(" ")[2]
        return max((test for test in tests if said == test or said.startswith(f"{test} - ")), key=len, default=None)


def load_libraries() -> None:
    """Load the libraries once for all forks: they take most of the time of a quick test."""
    for plugin in metadata.entry_points(group="pytest11"):
        plugin.load()
    for name in _LOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def tried(tree: Path, module: str, text: str, tests: Sequence[str], seconds: float) -> Outcome:
    """Change a module, run tests, and change it back.

    Args:
        tree: The copy of the project.
        module: The module, relative to it.
        text: The module's text with the change.
        tests: The tests, in this order.
        seconds: How long they take without the change.
    """
    if not tests:
        return Outcome(Ending.UNREACHED)
    started = time.monotonic()
    with _changed(tree / module, text):
        ending, log = _run(tree, tests, limit=30 + 5 * seconds)
    summary = [line for line in log.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return Outcome(ending, summary[-1] if summary else log[-300:], time.monotonic() - started)


@contextlib.contextmanager
def _changed(file: Path, text: str) -> Iterator[None]:
    original = file.read_text("utf-8")
    file.write_text(text, "utf-8")
    try:
        yield
    finally:
        file.write_text(original, "utf-8")


def _run(tree: Path, tests: Sequence[str], limit: float) -> tuple[Ending, str]:
    """Run tests in a fork; how it ends, and what it prints."""
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    child = os.fork()
    if child == 0:
        os._exit(_in_child(tree, tests, folder))
    try:
        status = _wait(child, limit)
        log = (folder / "log").read_text("utf-8", errors="replace")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests left running
        shutil.rmtree(folder, ignore_errors=True)
    if status is None:
        return Ending.TIMED_OUT, log
    return (Ending.SURVIVED if status == pytest.ExitCode.OK else Ending.KILLED), log


def _wait(child: int, limit: float) -> int | None:
    """Wait for the end of a process; its exit status, or None if it takes longer than the limit."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _in_child(tree: Path, tests: Sequence[str], folder: Path) -> int:
    try:
        os.setsid()
        os.chdir(tree)
        sys.path[:0] = [str(tree)]
        os.environ.update(PYTHONPATH=str(tree), HYPOTHESIS_STORAGE_DIRECTORY=str(folder / "hypothesis"))
        with (folder / "log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        options = [
            "-q",
            "-x",
            "--assert=plain",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed=0",
            f"--basetemp={folder / 'tests'}",
        ]
        # Libraries that are loaded already bring plugins; their assertions are not ours.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        return int(pytest.main([*options, *tests]))
    except BaseException:  # noqa: BLE001 - whatever a mutant does, this process must end here
        traceback.print_exc()
        return 1
