"""How the end of a job is told: by the record in its folder, which arrives late, and by what the scheduler adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.errors import JobNotStartedError, MachineError, NodeLostError, SchedulerUnavailableError
from orchestrator.events import silence
from orchestrator.executors import job_follower
from orchestrator.executors.job import never_abort
from orchestrator.executors.job_folder import Ending, JobFolder
from orchestrator.executors.job_follower import Follower, SubmittedJob
from orchestrator.executors.scheduler import GivesUp, JobState, never

SETTLE = 10.0
COMPLETED = JobState("over", "COMPLETED", "ended")
FAILED = JobState("over", "FAILED", "ended")
OUT_OF_MEMORY = JobState("over", "OUT_OF_MEMORY", "out_of_memory")
DEADLINE = JobState("over", "DEADLINE", "time_limit", 1)


@dataclass
class Cluster:
    """A scheduler with one job, a clock that only sleeping moves, and a folder in which files appear at their times."""

    folder: JobFolder
    answers: JobState | SchedulerUnavailableError | None
    now: float = 1000.0
    arrivals: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    title = "Slurm"

    def state(self, _number: str, _name: str, _gives_up: GivesUp = never) -> JobState | None:
        if isinstance(self.answers, SchedulerUnavailableError):
            raise self.answers
        return self.answers

    def output_of(self, _number: str, _name: str, _folder: JobFolder) -> str:
        return "no such python"

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for arrival in [each for each in self.arrivals if each[0] <= self.now]:
            self.arrivals.remove(arrival)
            arrival[1]()

    def records(self, ending: Ending, *, after: float = 0.0) -> None:
        """Let the record of the job's end become visible here after some seconds."""

        def arrive() -> None:
            self.folder.reserve_ending()
            self.folder.write_ending(ending)

        self.arrivals.append((self.now + after, arrive))
        self.sleep(0)

    def follow(self) -> Ending:
        job = SubmittedJob("7", "tiny-quantize", self.folder, adopted=False)
        return Follower(cast("Any", self), job, "quantize", silence, 300, SETTLE, never_abort).to_the_end()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(JobFolder(tmp_path), COMPLETED)
    monkeypatch.setattr(job_follower, "time", SimpleNamespace(monotonic=lambda: made.now, sleep=made.sleep))
    monkeypatch.setattr(job_follower._Pause, "is_over", lambda _pause: True)  # noqa: SLF001 - each look asks as well
    return made


@pytest.mark.parametrize("seconds", [0.0, 3.0, SETTLE - 1])
def test_a_record_that_the_shared_folder_shows_late_is_waited_for(cluster: Cluster, seconds: float) -> None:
    cluster.records(Ending(0), after=seconds)
    assert cluster.follow() == Ending(0)


def test_a_record_that_never_arrives_is_no_success(cluster: Cluster) -> None:
    cluster.records(Ending(0), after=SETTLE + 1)
    with pytest.raises(JobNotStartedError, match="no such python"):
        cluster.follow()
    cluster.answers = None
    cluster.arrivals.clear()
    with pytest.raises(NodeLostError):
        cluster.follow()


@pytest.mark.parametrize(
    ("ending", "answer", "out_of_memory"),
    [
        (Ending(137, killed=True), OUT_OF_MEMORY, True),
        (Ending(5), OUT_OF_MEMORY, True),  # a child of the command was killed, and the command said so
        (Ending(5), FAILED, False),
        (Ending(0), OUT_OF_MEMORY, False),  # a process was killed that was not needed
        (Ending(5, code="DISK_FULL"), OUT_OF_MEMORY, False),
        (Ending(5), None, False),
        (Ending(5), SchedulerUnavailableError("no answer"), False),
    ],
)
def test_the_scheduler_says_whether_a_command_failed_for_memory(
    cluster: Cluster, ending: Ending, answer: JobState | SchedulerUnavailableError | None, *, out_of_memory: bool
) -> None:
    cluster.records(ending)
    cluster.answers = answer
    found = cluster.follow()
    assert found.out_of_memory is out_of_memory
    assert found.exit_status == (137 if out_of_memory else ending.exit_status)


def test_a_deadline_before_the_start_is_no_time_limit_of_the_step(cluster: Cluster) -> None:
    cluster.answers = DEADLINE
    with pytest.raises(MachineError, match=r"job 7 was removed before its command started \(DEADLINE\)"):
        cluster.follow()
    cluster.folder.beat()
    assert cluster.follow().time_limit
