"""Defines what a cluster's scheduler does for a build, so that all schedulers share one executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.executors.job import Job
from orchestrator.executors.job_folder import JobFolder
from orchestrator.values import frozen

GivesUp = Callable[[], bool]
"""Tells whether an answer is no longer needed."""

Cause = Literal["ended", "cancelled", "out_of_memory", "time_limit", "node_lost"]
"""Why a job is over, as the scheduler says. `ended`: its script ended by itself."""


def never() -> bool:
    """Wait for every answer."""
    return False


@frozen
class Resources:
    """What a job requests of its cluster."""

    minutes: int
    memory: int
    """Bytes."""
    gpus: int = 0


@frozen
class JobState:
    """What a scheduler knows of a job. It may be wrong after the scheduler was killed."""

    phase: Literal["waiting", "running", "over"]
    reason: str = ""
    """Why it waits, or how it ended, in the scheduler's words."""
    cause: Cause = "ended"
    """Why it is over."""
    signal: int = 0
    """The signal that ended its script; 0 if it ended by itself."""
    stuck: bool = False
    """It waits for something that seldom comes by itself, such as an image that cannot be pulled."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended and left its node."""
        return self.phase == "over"

    @property
    def is_waiting(self) -> bool:
        """Whether it has not started."""
        return self.phase == "waiting"


class Scheduler(Protocol):
    """Places jobs on nodes. Jobs are named by a number that is never given twice, and by a name that is ours.

    Each method that asks raises SchedulerUnavailableError if there is no answer.
    """

    @property
    def name(self) -> str:
        """The name of the executor, such as `slurm`."""

    @property
    def title(self) -> str:
        """The name in messages."""

    @property
    def chains(self) -> bool:
        """Whether it starts a job by itself after the success of another."""

    @property
    def request_name(self) -> str:
        """The name of the file that describes a job to it."""

    def brief(self) -> Scheduler:
        """Return the same with little patience, for questions whose answers are not needed."""

    def check(self) -> None:
        """Check that it answers."""

    def command_line(self, request: Path) -> tuple[str, ...]:
        """Return the command that submits a request by hand."""

    def request(self, job: Job, name: str) -> str:
        """Write the request of a job. It holds no secret."""

    def by_hand(self, jobs: Sequence[Job]) -> Mapping[str, str]:
        """Return more files, by name, with which a person submits the requests of jobs: one is `submit.sh`."""

    def private_values(self, job: Job) -> Mapping[str, str]:
        """Return the variables of a job that are handed over by a file which only the user can read."""

    def submit(self, request: Path, after: str | None = None) -> str:
        """Submit a request. Return the job's number.

        Args:
            request: The request's file.
            after: The job that must succeed before this one starts. If it fails, this one is removed.

        Raises:
            JobRefusedError: It is not accepted.
        """

    def state(self, number: str, name: str, gives_up: GivesUp = never) -> JobState | None:
        """Return a job's state; None if there is no job of that number and name.

        Args:
            number: The job's number.
            name: Its name.
            gives_up: Called while there is no answer. If it returns true, waiting ends.
        """

    def find(self, *names: str) -> Mapping[str, str]:
        """Return the jobs of these names that wait or run: the name by the number."""

    def ask_to_stop(self, number: str, name: str) -> None:
        """Send SIGTERM to a running job."""

    def cancel(self, number: str, name: str, *, now: bool = False) -> None:
        """Remove a job. With `now`, its processes are killed first."""

    def unblock(self, number: str, state: JobState, ended: str | None) -> None:
        """Let a waiting job start that is held without need.

        Args:
            number: The job's number.
            state: Its state.
            ended: The job that it waits for, if that one has succeeded.
        """

    def start_without(self, number: str) -> None:
        """Let a waiting job start without the end of another one."""

    def output_of(self, number: str, name: str, folder: JobFolder) -> str:
        """Return what a job printed before its command started; empty if that is not known."""
