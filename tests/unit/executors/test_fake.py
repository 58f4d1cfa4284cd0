"""The fake executor's own means: how it is told to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import DockerUnavailableError
from orchestrator.events import Event, StepStarted, silence
from orchestrator.executors.job import Job, Outcome
from tests.support.fake import FakeExecutor, FakeRun


def leave_model(run: FakeRun) -> None:
    (run.output / "model").write_text("weights")


@pytest.fixture
def fake() -> FakeExecutor:
    return FakeExecutor({"quantize": leave_model})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job("quantize", "0" * 64, "tiny", ("python3",), tmp_path / "out")


def test_a_step_without_a_function_leaves_nothing(job: Job) -> None:
    assert FakeExecutor().run(job, silence) == Outcome(0, job.output)
    assert list(job.output.iterdir()) == []


def test_a_step_fails_where_it_is_told_to_until_it_is_mended(fake: FakeExecutor, job: Job) -> None:
    fake.fail("quantize", status=3)
    assert fake.run(job, silence).exit_status == 3
    fake.mend("quantize")
    assert fake.run(job, silence).exit_status == 0
    assert fake.steps == ["quantize", "quantize"]


def test_a_step_can_be_killed_or_run_out_of_memory(fake: FakeExecutor, job: Job) -> None:
    fake.kill("quantize")
    assert fake.run(job, silence) == Outcome(137, job.output, killed=True)
    fake.run_out_of_memory("quantize")
    assert fake.run(job, silence) == Outcome(137, job.output, out_of_memory=True)


def test_a_step_can_leave_nothing_or_files_without_content(fake: FakeExecutor, job: Job) -> None:
    fake.leave_empty_files("quantize")
    fake.run(job, silence)
    assert (job.output / "model").read_bytes() == b""
    fake.leave_nothing("quantize")
    fake.run(job, silence)
    assert list(job.output.iterdir()) == []


def test_a_step_can_be_interrupted_or_lose_its_machine(fake: FakeExecutor, job: Job) -> None:
    fake.interrupt("quantize")
    with pytest.raises(KeyboardInterrupt):
        fake.run(job, silence)
    fake.lose_machine("quantize", DockerUnavailableError("gone"))
    with pytest.raises(DockerUnavailableError):
        fake.run(job, silence)


def test_a_step_can_be_refused_beforehand(fake: FakeExecutor, job: Job) -> None:
    fake.refuse("quantize", DockerUnavailableError("none"))
    with pytest.raises(DockerUnavailableError):
        fake.check(job)


def test_a_step_can_be_found_running(fake: FakeExecutor, job: Job, tmp_path: Path) -> None:
    events: list[Event] = []

    def see(event: Event) -> None:
        events.append(event)

    fake.adopt("quantize", tmp_path / "earlier" / "out")
    outcome = fake.run(job, see)
    assert (outcome.output, outcome.adopted) == (tmp_path / "earlier" / "out", True)
    assert events == [StepStarted("quantize", "fake", adopted=True)]
