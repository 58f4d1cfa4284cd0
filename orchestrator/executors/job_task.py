"""Runs a step's command inside a job: `python -m orchestrator.executors.job_task --folder FOLDER … -- COMMAND`.

A scheduler may start a job twice: after Slurm's controller was killed, it does not know that the first run goes on or
has ended. So a job works only while it holds its folder's lock, and does nothing if its ending is already recorded.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from orchestrator.errors import OrchestratorError, from_os_error
from orchestrator.events import silence
from orchestrator.executors.job import Job
from orchestrator.executors.job_folder import Ending, JobFolder
from orchestrator.executors.process import ProcessExecutor, text_of

if TYPE_CHECKING:
    from orchestrator.catalog.cluster import Cluster  # it would import pydantic in every job

_TERMINATED = 143
"""The exit status of a command that was asked to stop."""


class _TimeLimitError(KeyboardInterrupt):
    """The job's time is nearly over."""


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    folder = JobFolder(options.folder)
    try:
        with folder.alone():
            if ending := folder.ending():
                return ending.exit_status
            if not folder.is_requested():
                return 0  # it was given up
            ending = _run(options, folder)
            folder.write_ending(ending)
            folder.write_private({})
            return ending.exit_status
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}: the job was given up\n")
        return 0


def task_lines(job: Job, minutes: int, cluster: Cluster, grace: float) -> Iterator[tuple[str, ...]]:
    """Yield the words behind `python` that run a job's command, one line of a script at a time, without the command.

    Args:
        job: The job.
        minutes: Its time limit.
        cluster: The site's settings.
        grace: Seconds between asking a command to stop and killing it.
    """
    stop_after = max(1, 60 * minutes - cluster.margins.stop_seconds)
    beat = max(0.5, cluster.settle_seconds / 2)
    yield ("-m", "orchestrator.executors.job_task")
    yield ("--folder", str(job.output.parent), "--step", job.step, *(("--network",) if job.network else ()))
    yield ("--grace", f"{grace:g}", "--beat", f"{beat:g}", "--stop-after", f"{stop_after:g}")
    for name, value in sorted(job.environment.items()):
        yield ("--variable", f"{name}={text_of(job, value)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="job_task", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the job's folder")
    parser.add_argument("--step", required=True, help="the step's name")
    parser.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    parser.add_argument("--secret", action="append", default=[], metavar="NAME", help="a variable that no log shows")
    parser.add_argument("--network", action="store_true", help="the command uses the network")
    parser.add_argument(
        "--grace", type=float, default=30.0, help="seconds from asking the command to stop to killing it"
    )
    parser.add_argument("--beat", type=float, default=5.0, help="seconds between two signs of life")
    parser.add_argument("--stop-after", type=float, default=0.0, help="seconds until the command is stopped; 0: never")
    parser.add_argument("command", nargs="+")
    return parser


def _run(options: argparse.Namespace, folder: JobFolder) -> Ending:
    job = Job(
        step=options.step,
        key="",
        recipe="",
        argv=tuple(options.command),
        output=folder.output,
        environment={**_of_slurm(), **dict(each.split("=", 1) for each in options.variable)},
        secrets={**{name: os.environ[name] for name in options.secret}, **folder.private()},
        network=options.network,
    )
    signal.signal(signal.SIGTERM, _on_terminate)
    signal.signal(signal.SIGALRM, _on_time_limit)
    signal.setitimer(signal.ITIMER_REAL, options.stop_after)
    try:
        folder.reserve_ending()
        outcome = ProcessExecutor(os.environ, options.grace, forks=True).run(job, silence, _Pulse(folder, options.beat))
        return Ending(outcome.exit_status, killed=outcome.killed)
    except _TimeLimitError:
        return Ending(_TERMINATED, killed=True, time_limit=True)
    except KeyboardInterrupt:
        return Ending(_TERMINATED, killed=True)
    except OrchestratorError as error:
        return Ending(error.exit_status, code=error.code, message=error.message, hint=error.hint)
    except OSError as error:
        known = from_os_error(error, f"running {options.step}")
        if known is None:
            raise
        return Ending(known.exit_status, code=known.code, message=known.message, hint=known.hint)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@dataclass
class _Pulse:
    """Touches a file of the folder every few seconds while the command runs."""

    folder: JobFolder
    every: float
    last: float = -math.inf

    def __call__(self) -> None:
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self.folder.beat()


def _of_slurm() -> dict[str, str]:
    """Return Slurm's variables, by which srun finds the job."""
    return {name: value for name, value in os.environ.items() if name.startswith("SLURM_")}


def _on_terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _on_time_limit(_number: int, _frame: FrameType | None) -> None:
    raise _TimeLimitError


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
