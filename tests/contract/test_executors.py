"""What every executor promises, the fake one included: the same cases for all of them."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections import deque
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import errors
from orchestrator.events import Event, Failure, LogLine, Progress
from orchestrator.executors.job import Inside, Mount, Outcome
from orchestrator.executors.log_file import LARGEST
from orchestrator.executors.process import ProcessExecutor
from tests.support import command
from tests.support.bench import KEY, Bench, in_background, wait_for
from tests.support.fake import FakeExecutor, FakeRun

if TYPE_CHECKING:
    from tests.support.docker_daemon import Daemon

pytest_plugins = ("tests.support.docker_daemon",)

SECRET = "hf_canary_0123456789"


def _play(run: FakeRun) -> int:
    """Run a behaviour in this process, as the fake executor's function."""
    _, _, behaviour, *arguments = run.argv
    return command.BEHAVIOURS[behaviour](command.World(arguments, run.environment, run.output, run.write))


@pytest.fixture
def grace() -> int:
    """Seconds between asking a command to stop and killing it."""
    return 3


@pytest.fixture(params=["fake", "process", "slurm", "kubernetes", pytest.param("docker", marks=pytest.mark.docker)])
def bench(request: pytest.FixtureRequest, tmp_path: Path, grace: int) -> Bench:
    """Each executor in turn."""
    if request.param == "fake":
        return Bench(FakeExecutor({"quantize": _play}), tmp_path)
    return _bench_of_programs(request, tmp_path, grace)


@pytest.fixture(params=["process", "slurm", "kubernetes", pytest.param("docker", marks=pytest.mark.docker)])
def real_bench(request: pytest.FixtureRequest, tmp_path: Path, grace: int) -> Bench:
    """Each executor whose commands are programs: only those can be killed, missing or kept from a folder."""
    return _bench_of_programs(request, tmp_path, grace)


def _bench_of_programs(request: pytest.FixtureRequest, folder: Path, grace: int) -> Bench:
    if request.param == "docker":
        return Bench.of_daemon(request.getfixturevalue("daemon"), folder, grace)
    if request.param == "slurm":
        return Bench(request.getfixturevalue("slurm").executor(grace), folder)
    if request.param == "kubernetes":
        cluster = request.getfixturevalue("kubernetes")
        cluster.secrets["hf"] = {"token": SECRET}
        secrets = {"HF_TOKEN": {"name": "hf", "key": "token"}}
        return Bench(cluster.executor(folder, grace, secrets=secrets), folder)
    return Bench(ProcessExecutor(grace=grace), folder)


def test_a_command_leaves_its_files_in_the_output_folder(bench: Bench) -> None:
    outcome = bench.run(bench.job("write_files", "model.safetensors=weights"))
    assert outcome == Outcome(0, bench.folder / "attempt" / "out")
    assert (outcome.output / "model.safetensors").read_text() == "weights"


def test_files_belong_to_the_caller(bench: Bench) -> None:
    outcome = bench.run(bench.job("write_files", "model=weights"))
    assert (outcome.output / "model").stat().st_uid == bench.folder.stat().st_uid


@pytest.mark.parametrize("status", [1, 7, 255])
def test_the_exit_status_is_the_commands(bench: Bench, status: int) -> None:
    outcome = bench.run(bench.job("end_with", str(status)))
    assert (outcome.exit_status, outcome.killed, outcome.out_of_memory) == (status, False, False)


def test_a_missing_output_can_be_seen(bench: Bench) -> None:
    outcome = bench.run(bench.job("end_with", "0"))
    assert outcome.exit_status == 0
    assert list(outcome.output.iterdir()) == []


def test_lines_arrive_in_order_and_are_kept_in_the_log(bench: Bench) -> None:
    bench.run(bench.job("count", "2000"))
    assert bench.lines == [f"line {number}" for number in range(2000)]
    assert bench.log.decode().splitlines() == bench.lines


def test_progress_and_failure_arrive_as_events(bench: Bench) -> None:
    outcome = bench.run(bench.job("report_progress"))
    assert outcome.exit_status == 7
    assert [event for event in bench.events if isinstance(event, Progress | Failure)] == [
        *(Progress(done, 3, "layers", "ü") for done in (1, 2, 3)),
        Failure("CHECK_FAILED", "no", "yes"),
    ]


def test_arguments_arrive_as_they_are(bench: Bench) -> None:
    arguments = ("two words", "'single' \"double\"", "ü 漢 🤖", "$HOME `id` ; exit 3", "a\nb", "", "--flag=x,y", "\\")
    outcome = bench.run(bench.job("show_arguments", *arguments))
    assert json.loads((outcome.output / "arguments.json").read_text()) == list(arguments)


def test_a_mounted_file_is_found_by_its_place(bench: Bench) -> None:
    bench.run(bench.job("read", Inside("/input", "weights")))
    assert bench.lines == ["weights"]


def test_a_variable_may_name_a_place(bench: Bench) -> None:
    job = replace(bench.job("show_environment"), environment={"MODEL": Inside("/out", "x y"), "PLAIN": "a b"})
    outcome = bench.run(job)
    seen = json.loads((outcome.output / "environment.json").read_text())
    place = "/out/x y" if bench.image else str(outcome.output / "x y")
    assert (seen["MODEL"], seen["PLAIN"]) == (place, "a b")


def test_bytes_that_are_no_text_are_survived(bench: Bench) -> None:
    outcome = bench.run(bench.job("write_binary"))
    assert outcome.exit_status == 0
    assert bench.lines[-1] == "after"
    assert bench.log.startswith(bytes(range(128))), "what is text stays as it is; Docker's log keeps no other bytes"


def test_a_very_long_line_is_cut_for_the_reader_and_whole_in_the_log(bench: Bench) -> None:
    length = 10_000_000
    bench.run(bench.job("write_long_line", str(length)))
    assert [len(line) < 70_000 for line in bench.lines] == [True, True]
    assert bench.lines[1] == "after"
    assert bench.log == b"x" * length + b"\nafter\n"


def test_a_log_without_end_fills_neither_memory_nor_disk_and_its_end_arrives(real_bench: Bench) -> None:
    megabytes = 300  # more than a log may have, and more than Docker keeps
    others: list[Event] = []
    texts: deque[str] = deque(maxlen=1)

    def see(event: Event) -> None:
        if isinstance(event, LogLine):
            texts.append(event.text)
        else:
            others.append(event)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    job = real_bench.job("flood", str(megabytes))
    job.output.mkdir(parents=True)
    outcome = real_bench.executor.run(job, see)
    real_bench.executor.forget(job)
    assert outcome.exit_status == 7
    assert others[-1] == Failure("CHECK_FAILED", "no", "yes"), "why it gave up is among its last lines"
    assert texts[0].startswith("line 002345")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10
    log = real_bench.folder / "attempt" / "log.txt"
    assert log.stat().st_size <= LARGEST
    with log.open("rb") as stream:
        assert stream.read(11) == b"line 000000"
        stream.seek(-200, os.SEEK_END)
        assert b"CHECK_FAILED" in stream.read()


def test_each_drawing_of_a_progress_bar_is_a_line(bench: Bench) -> None:
    bench.run(bench.job("draw_bar"))
    assert bench.lines == ["10%", "20%", "100%", "after"]


def test_a_secret_reaches_the_command_and_no_log(bench: Bench) -> None:
    job = replace(bench.job("tell_secret", "HF_TOKEN"), secrets={"HF_TOKEN": SECRET})
    outcome = bench.run(job)
    assert outcome.exit_status == 0
    assert bench.lines == ["the secret is [secret], and it has 20 letters"]
    assert SECRET.encode() not in bench.log


def test_a_secret_is_not_in_the_command_line(bench: Bench) -> None:
    job = replace(bench.job("tell_secret", "HF_TOKEN"), secrets={"HF_TOKEN": SECRET})
    assert SECRET not in " ".join(bench.executor.command_line(job))


def test_an_ended_job_can_run_again(bench: Bench) -> None:
    assert bench.run(bench.job("end_with", "4")).exit_status == 4
    assert bench.run(bench.job("end_with", "0")).exit_status == 0


def test_an_observer_that_is_interrupted_ends_the_run(bench: Bench) -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt(event)

    bench.job("count").output.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        bench.executor.run(bench.job("count", "3"), interrupt)


class Interruption:
    """An observer that presses Ctrl-C when a line arrives, the first time and each time after."""

    def __init__(self, times: int) -> None:
        self.lines: list[str] = []
        self._left = times

    def __call__(self, event: Event) -> None:
        if isinstance(event, LogLine):
            self.lines.append(event.text)
            if self._left:
                self._left -= 1
                raise KeyboardInterrupt


def test_an_interrupt_asks_the_command_to_stop_and_is_raised_again(real_bench: Bench) -> None:
    job = real_bench.job("wait")
    job.output.mkdir(parents=True)
    interruption = Interruption(1)
    with pytest.raises(KeyboardInterrupt):
        real_bench.executor.run(job, interruption)
    assert interruption.lines == ["waiting", "asked to stop"]
    (job.output / "go").touch()
    real_bench.run(job)
    assert (job.output / "starts").read_text() == "start\n" * 2, "nothing of the stopped run is adopted"


def test_a_machine_short_of_memory_stops_the_command_and_leaves_nothing(real_bench: Bench) -> None:
    job = real_bench.job("wait")
    job.output.mkdir(parents=True)
    lines: list[str] = []
    looks: list[float] = []

    def note(event: Event) -> None:
        lines.extend([event.text] if isinstance(event, LogLine) else [])

    def object_in_time() -> None:
        looks.append(time.monotonic())
        if lines:
            message = "4.9 GiB are available"
            raise errors.HostMemoryError(message)

    with pytest.raises(errors.HostMemoryError):
        real_bench.executor.run(job, note, object_in_time)
    assert lines == ["waiting", "asked to stop"]
    assert max((later - sooner for sooner, later in pairwise(looks)), default=0) < 2, "it is asked every second"
    (job.output / "go").touch()
    real_bench.run(job)
    assert (job.output / "starts").read_text() == "start\n" * 2, "nothing of the stopped run is adopted"


@pytest.mark.parametrize("grace", [60])
def test_a_second_interrupt_kills_at_once(real_bench: Bench) -> None:
    job = real_bench.job("refuse_to_stop")
    job.output.mkdir(parents=True)

    pressed: list[float] = []

    def interrupt_again() -> None:
        wait_for((job.output / "asked").exists)
        pressed.append(time.monotonic())
        press_ctrl_c()

    second = threading.Thread(target=interrupt_again)
    second.start()
    with pytest.raises(KeyboardInterrupt):
        real_bench.executor.run(job, Interruption(1))
    second.join()
    assert time.monotonic() - pressed[0] < 60, "it did not wait for the grace period"


def press_ctrl_c() -> None:
    identity = threading.main_thread().ident
    assert identity is not None
    signal.pthread_kill(identity, signal.SIGINT)


def test_an_interrupt_that_is_refused_ends_in_a_kill(real_bench: Bench) -> None:
    job = real_bench.job("refuse_to_stop")
    job.output.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        real_bench.executor.run(job, Interruption(1))


def test_a_command_that_is_killed_is_told_from_one_that_fails(real_bench: Bench) -> None:
    outcome = real_bench.run(real_bench.job("be_killed"))
    assert outcome.killed
    assert not outcome.out_of_memory
    assert real_bench.lines == ["about to die"]


def test_a_fault_in_memory_is_the_commands_own(real_bench: Bench) -> None:
    outcome = real_bench.run(real_bench.job("fault"))
    assert (outcome.exit_status, outcome.killed, outcome.out_of_memory) == (139, False, False)


def test_a_program_that_is_not_there_ends_as_in_a_shell(real_bench: Bench) -> None:
    outcome = real_bench.run(replace(real_bench.job(), argv=("trtllm-build", "--help")))
    assert outcome.exit_status == 127
    assert "trtllm-build" in "".join(real_bench.lines)


def test_children_do_not_outlive_their_command(real_bench: Bench) -> None:
    job = real_bench.job()
    writer = "import time\nfor n in range(600): open('ticks', 'a').write('x'); time.sleep(0.05)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {writer!r}]); time.sleep(1)"
    real_bench.run(replace(job, argv=("python3", "-c", parent)))
    ticks = (job.output / "ticks").stat().st_size
    time.sleep(0.3)
    assert (job.output / "ticks").stat().st_size == ticks > 0


def test_the_caller_s_environment_does_not_leak_in(real_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGC_API_KEY", SECRET)
    outcome = real_bench.run(real_bench.job("show_environment"))
    assert SECRET not in (outcome.output / "environment.json").read_text()


def test_our_own_code_is_found(real_bench: Bench) -> None:
    job = replace(real_bench.job(), argv=("python3", "-c", "import orchestrator.errors"))
    if real_bench.image:
        package = Mount(Path(errors.__file__).parent, "/opt/orchestrator/orchestrator")
        path = {"PYTHONPATH": "/opt/orchestrator"}
        job = replace(job, mounts=(*job.mounts, package), environment=path)
    assert real_bench.run(job).exit_status == 0


@pytest.fixture
def docker_bench(daemon: Daemon, tmp_path: Path) -> Bench:
    """The executor that keeps a command from what it must not touch."""
    return Bench.of_daemon(daemon, tmp_path)


@pytest.mark.docker
def test_what_is_mounted_read_only_cannot_be_written(docker_bench: Bench) -> None:
    outcome = docker_bench.run(docker_bench.job("write_to", Inside("/input", "weights")))
    assert outcome.exit_status == 30
    assert docker_bench.lines == ["refused: Read-only file system"]
    assert (docker_bench.input / "weights").read_text() == "weights"


@pytest.mark.docker
def test_a_home_can_be_written_and_is_nobody_s(docker_bench: Bench) -> None:
    script = "from pathlib import Path; Path('~/.cache').expanduser().mkdir(); print(Path.home())"
    docker_bench.run(replace(docker_bench.job(), argv=("python3", "-c", script)))
    assert docker_bench.lines == ["/tmp/home"]


@pytest.mark.docker
def test_a_command_has_no_network(docker_bench: Bench) -> None:
    docker_bench.run(docker_bench.job("call_out"))
    assert docker_bench.lines == ["Network is unreachable", "interfaces: lo"]


@pytest.mark.docker
def test_a_secret_is_a_file_and_docker_does_not_know_it(docker_bench: Bench, daemon: Daemon) -> None:
    job = replace(docker_bench.job("wait"), secrets={"HF_TOKEN": SECRET})
    with in_background(docker_bench, job) as outcomes, closing(daemon.connect()) as client:
        wait_for(lambda: "waiting" in docker_bench.lines)
        (container,) = client.containers.list(filters={"label": f"dev.orchestrator.key={KEY}"})
        inspected = json.dumps(container.attrs)
        (file,) = (Path(mount["Source"]) for mount in container.attrs["Mounts"] if "secret" in mount["Destination"])
        assert (file.read_text(), file.stat().st_mode & 0o777) == (SECRET, 0o600)
        assert not file.is_relative_to(docker_bench.folder)
        (job.output / "go").touch()
    assert [outcome.exit_status for outcome in outcomes] == [0]
    assert SECRET not in inspected
    assert "HF_TOKEN_PATH=/run/secrets/HF_TOKEN" in inspected
    assert not file.parent.exists()
