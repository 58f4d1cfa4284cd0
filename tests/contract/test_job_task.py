"""What runs inside a job: once, whatever the scheduler does, and with a record of its end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.executors.job_folder import Ending, JobFolder
from orchestrator.executors.job_task import main

COUNT = "open('starts', 'a').write('start\\n'); raise SystemExit(7)"


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    found = JobFolder(tmp_path / "job")
    found.output.mkdir(parents=True)
    (found.path / "job.sh").touch()
    return found


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Keep the handlers of this process."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def run(folder: JobFolder, program: str, *options: str) -> int:
    words = ["--folder", str(folder.path), "--step", "quantize", *options, "--", sys.executable, "-c", program]
    return main(words)


def test_it_records_how_the_command_ended(folder: JobFolder) -> None:
    assert run(folder, COUNT) == 7
    assert folder.ending() == Ending(7)


def test_a_job_that_is_started_again_runs_nothing(folder: JobFolder) -> None:
    assert (run(folder, COUNT), run(folder, COUNT)) == (7, 7)
    assert (folder.output / "starts").read_text() == "start\n"


def test_a_job_that_was_given_up_runs_nothing(folder: JobFolder) -> None:
    folder.clear()
    assert run(folder, COUNT) == 0
    assert not (folder.output / "starts").exists()
    assert folder.ending() is None


def test_a_job_whose_folder_is_gone_ends_quietly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(JobFolder(tmp_path / "gone"), COUNT) == 0
    assert "the job was given up" in capsys.readouterr().err


def test_a_second_run_waits_for_the_first_and_does_nothing(folder: JobFolder) -> None:
    statuses: list[int] = []
    with folder.alone():
        second = threading.Thread(target=lambda: statuses.append(run(folder, COUNT)))
        second.start()
        folder.reserve_ending()
        folder.write_ending(Ending(0))
    second.join()
    assert statuses == [0]
    assert not (folder.output / "starts").exists()


def test_a_command_is_stopped_before_the_time_limit(folder: JobFolder) -> None:
    program = "import time; print('at work', flush=True); time.sleep(60)"
    assert run(folder, program, "--stop-after", "0.5", "--grace", "5") == 143
    assert folder.ending() == Ending(143, killed=True, time_limit=True)


def test_secrets_come_from_the_private_file(folder: JobFolder) -> None:
    folder.write_private({"HF_TOKEN": "hf_canary_0123456789"})
    assert (folder.path / "private").stat().st_mode & 0o777 == 0o600
    program = "import os; print(os.environ['HF_TOKEN'], len(os.environ['HF_TOKEN']), os.environ['A'])"
    assert run(folder, program, "--variable", "A=b c") == 0
    assert folder.log.read_text() == "[secret] 20 b c\n"
    assert not (folder.path / "private").exists(), "nobody may come to remove it"


def test_an_ending_fits_into_its_reserved_space(folder: JobFolder) -> None:
    folder.reserve_ending()
    folder.write_ending(Ending(6, code="DISK_FULL", message="m" * 9000, hint="h" * 9000))
    ending = folder.ending()
    assert ending is not None
    assert (ending.exit_status, ending.code, len(ending.message), len(ending.hint)) == (6, "DISK_FULL", 2000, 500)
