"""The orchestrator's command, made to die at a named point.

The n-th time that it comes there it kills itself with SIGKILL: nothing is cleaned up. The points are wrapped around the
program from outside; the program knows nothing of them.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from orchestrator.app import record, runner
from orchestrator.bundle import render
from orchestrator.cli import main as program
from orchestrator.executors import docker, process
from orchestrator.executors.job import Job, Outcome
from orchestrator.executors.process import ProcessExecutor
from orchestrator.store import store
from orchestrator.store.artifact import Artifact
from tests.chaos import downloading
from tests.chaos.points import Place, wrap

NOWHERE = "-"

BEFORE: dict[str, tuple[Place, ...]] = {
    "before-the-record": ((vars(record)["_Writer"], "put"),),
    "before-the-lock": ((store.Store, "lock"),),
    "before-the-attempt": ((store.Store, "attempt"),),
    "before-the-run": ((ProcessExecutor, "run"), (docker.DockerExecutor, "run")),
    "before-the-container-starts": ((docker, "start_once"),),
    "before-the-seal": ((store.Attempt, "seal"),),
    "before-publishing": ((store.Store, "publish"),),
    "before-owing": ((store.Store, "mark_leftovers"),),
    "before-the-stats": ((store.Store, "remember"),),
    "before-forgetting": ((ProcessExecutor, "forget"), (docker.DockerExecutor, "forget")),
    "before-sweeping": ((store.Store, "sweep"),),
    "before-the-swap": ((render, "replace_folder"),),
}
AFTER: dict[str, tuple[Place, ...]] = {
    "after-the-record": ((vars(record)["_Writer"], "put"),),
    "after-the-attempt": ((store.Store, "attempt"),),
    "after-the-container-is-made": ((docker, "create"),),
    "after-the-container-started": ((docker, "start_once"),),
    "after-the-run": ((ProcessExecutor, "run"), (docker.DockerExecutor, "run")),
    "after-the-seal": ((store.Attempt, "seal"),),
    "after-hashing": ((store, "hash_files"),),
    "after-the-manifest": ((store, "_make_read_only"),),
    "after-publishing": ((store.Store, "publish"),),
    "after-sweeping": ((store.Store, "sweep"),),
    "after-the-links": ((render, "link_files"),),
    "after-the-swap": ((render, "replace_folder"),),
    "after-the-files": ((runner, "_write_files"),),
}
POINTS = (*BEFORE, *AFTER, *downloading.POINTS)
ONLY_IN_CONTAINERS = frozenset(
    {"before-the-container-starts", "after-the-container-is-made", "after-the-container-started"}
)


def arm(point: str, count: int) -> None:
    """Make this process die when it comes to a point for the COUNT-th time."""
    if point in downloading.POINTS:
        downloading.arm_downloads(point, count, process)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for place in (*BEFORE.get(point, ()), *AFTER.get(point, ())):
        wrap(place, die, count, first=point in BEFORE)


def trace(file: Path) -> None:
    """Note what is run, sealed and published, in the order in which it happens over all processes."""

    def note(word: str, key: str) -> None:
        with file.open("a") as stream:
            stream.write(f"{word} {key}\n")

    run, seal, publish = ProcessExecutor.run, store.Attempt.seal, store.Store.publish

    def noted_run(self: ProcessExecutor, job: Job, *rest: Any) -> Outcome:  # noqa: ANN401 - as `run` takes them
        note("run", job.key)
        return run(self, job, *rest)

    def noted_seal(self: store.Attempt) -> None:
        seal(self)
        note("sealed", self.folder.name[:64])

    def noted_publish(self: store.Store, attempt: store.Attempt, key: str, *rest: Any) -> Artifact:  # noqa: ANN401 - as `publish` takes them
        artifact = publish(self, attempt, key, *rest)
        note("published", key)
        return artifact

    patched: tuple[tuple[Any, str, Any], ...] = (
        (ProcessExecutor, "run", noted_run),
        (store.Attempt, "seal", noted_seal),
        (store.Store, "publish", noted_publish),
    )
    for owner, name, function in patched:
        setattr(owner, name, function)


def build(point: str, count: int, arguments: list[str], said: Path, environment: dict[str, str]) -> None:
    """Run the command in this process, which is its own from here on."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(constants)  # which read the environment of the process that this one was forked from
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    trace(Path(environment["CHAOS_TRACE"]))
    if point != NOWHERE:
        arm(point, count)
    sys.argv = ["orchestrator", *arguments]
    program.main()
