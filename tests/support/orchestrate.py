"""An orchestrator to kill: `python orchestrate.py EXECUTOR JOB`, where JOB is a pickled job; prints each event."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from orchestrator.events import Event
from orchestrator.executors.docker import DockerExecutor
from orchestrator.executors.job import Executor, Job
from orchestrator.executors.process import ProcessExecutor

EXECUTORS: dict[str, type[DockerExecutor | ProcessExecutor]] = {"docker": DockerExecutor, "process": ProcessExecutor}


def show(event: Event) -> None:
    print(event, flush=True)  # noqa: T201 - it is the program's only output


def main() -> None:
    kind, file = sys.argv[1:]
    executor: Executor = EXECUTORS[kind]()
    job = pickle.loads(Path(file).read_bytes())  # noqa: S301 - the test wrote it
    assert isinstance(job, Job)
    print(executor.run(job, show), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
