"""Jobs and builds on a real Slurm: adoption, faults of the cluster, interrupts, and what nobody may see."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import (
    JobNotStartedError,
    JobRefusedError,
    NodeLostError,
    SlurmUnavailableError,
    StepTimeLimitError,
)
from orchestrator.events import LogLine, StepStarted, Waiting
from orchestrator.executors.job_folder import JobFolder
from tests.support.bench import Bench, in_background, wait_for
from tests.support.site import RECIPE, Site
from tests.support.slurm import Slurm, cluster_text
from tests.support.small_disk import small_disk

SECRET = "hf_canary_0123456789"
OTHER = "tiny-llama-fp8"


@pytest.fixture
def bench(slurm: Slurm, tmp_path: Path) -> Bench:
    return Bench(slurm.executor(), tmp_path)


def folder_of(bench: Bench) -> JobFolder:
    return JobFolder(bench.job().output.parent)


def test_a_job_whose_orchestrator_is_gone_is_adopted_and_runs_once(slurm: Slurm, bench: Bench) -> None:
    job = bench.job("wait")
    slurm.executor().submit(job)
    wait_for((job.output / "starts").exists)
    (job.output / "go").touch()
    outcome = bench.run(job)
    assert (outcome.exit_status, outcome.adopted) == (0, True)
    assert bench.events[0] == StepStarted("quantize", "slurm", adopted=True)
    assert bench.lines == ["waiting", "going on"]
    assert (job.output / "starts").read_text() == "start\n"
    assert slurm.queue() == []


def test_a_job_that_ended_without_its_orchestrator_is_found(slurm: Slurm, bench: Bench) -> None:
    job = bench.job("end_with", "7")
    slurm.executor().submit(job)
    wait_for(lambda: folder_of(bench).ending() is not None)
    (folder_of(bench).path / "job").unlink()  # killed between sbatch and recording the number
    outcome = bench.run(job)
    assert (outcome.exit_status, outcome.adopted) == (7, True)


def test_a_submitted_job_without_a_recorded_number_is_found_by_its_name(slurm: Slurm, bench: Bench) -> None:
    job = bench.job("wait")
    submitted = slurm.executor().submit(job)
    (submitted.folder.path / "job").unlink()
    assert slurm.executor().submit(job).number == submitted.number
    assert len(slurm.queue()) == 1


def test_the_end_is_read_from_the_job_s_record_while_the_controller_is_dead(own_slurm: Slurm, tmp_path: Path) -> None:
    bench = Bench(own_slurm.executor(), tmp_path)
    job = bench.job("wait", "3")
    with in_background(bench, job) as outcomes:
        wait_for((job.output / "starts").exists)
        own_slurm.kill_controller()
        (job.output / "go").touch()
        wait_for(lambda: "going on" in bench.lines)
    assert [outcome.exit_status for outcome in outcomes] == [3]
    own_slurm.start_controller()
    wait_for(lambda: not own_slurm.queue())
    assert (job.output / "starts").read_text() == "start\n"


def test_a_controller_that_stays_away_is_an_error_of_the_machine(own_slurm: Slurm, tmp_path: Path) -> None:
    executor = own_slurm.executor(patience=0.5)
    bench = Bench(executor, tmp_path)
    job = bench.job("wait")
    submitted = executor.submit(job)
    own_slurm.kill_controller()
    with pytest.raises(SlurmUnavailableError, match="has not answered"):
        executor.follow(submitted, job, bench.see)


def test_a_machine_without_slurm_is_told_what_is_missing(slurm: Slurm, bench: Bench) -> None:
    empty = {"PATH": "/nowhere", "SLURM_CONF": ""}
    executor = slurm.executor(environment=empty)
    with pytest.raises(SlurmUnavailableError, match="scontrol is not on this machine"):
        executor.check(bench.job("end_with", "0"))


def test_a_job_that_somebody_cancels_was_killed(slurm: Slurm, bench: Bench) -> None:
    job = bench.job("wait")
    with in_background(bench, job) as outcomes:
        wait_for(lambda: "waiting" in bench.lines)
        slurm.say("scancel", slurm.queue()[0].split()[0])
    assert [(outcome.killed, outcome.out_of_memory) for outcome in outcomes] == [(True, False)]


def test_a_job_that_waits_says_why_and_is_lost_with_its_node(slurm: Slurm, bench: Bench) -> None:
    job = bench.job("wait")
    slurm.say("scontrol", "update", "partitionname=build", "state=down")
    submitted = bench.executor.submit(job)  # type: ignore[attr-defined]
    lost: list[str] = []

    def follow(event: object) -> None:
        bench.see(event)  # type: ignore[arg-type]
        if isinstance(event, Waiting):
            slurm.say("scontrol", "update", "partitionname=build", "state=up")
        if event == LogLine("waiting"):
            node = slurm.say("squeue", "-h", "-o", "%N").strip()
            slurm.say("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
            lost.append(node)

    try:
        with pytest.raises(NodeLostError, match="NODE_FAIL"):
            bench.executor.follow(submitted, job, follow)  # type: ignore[attr-defined]
    finally:
        for node in lost:
            slurm.say("scontrol", "update", f"nodename={node}", "state=resume")
        slurm.wait_for_nodes()
    assert Waiting("quantize", f"job {submitted.number} is queued (PartitionDown)") in bench.events


def test_a_job_that_was_killed_with_its_supervisor_is_seen_before_slurm_sees_it(slurm: Slurm, tmp_path: Path) -> None:
    bench = Bench(slurm.executor(settle_seconds=0.5), tmp_path)
    with in_background(bench, bench.job("wait")) as outcomes:
        wait_for(lambda: "waiting" in bench.lines)
        (script,) = _scripts_at(folder_of(bench).path)
        parent = int((script / "stat").read_text().rpartition(")")[2].split()[1])
        for pid in (parent, int(script.name)):
            os.kill(pid, signal.SIGKILL)
        assert slurm.queue()[0].endswith("RUNNING")
    assert [(outcome.exit_status, outcome.killed) for outcome in outcomes] == [(137, True)]


def test_a_job_is_stopped_before_its_time_limit(slurm: Slurm, tmp_path: Path) -> None:
    bench = Bench(slurm.executor(minutes=1, margins={"stop_seconds": 59}), tmp_path)
    with pytest.raises(StepTimeLimitError):
        bench.run(bench.job("wait"))
    assert bench.lines == ["waiting", "asked to stop"]


def test_a_job_that_the_site_does_not_allow_is_refused_with_slurm_s_reason(slurm: Slurm, tmp_path: Path) -> None:
    bench = Bench(slurm.executor(partition="nowhere"), tmp_path)
    with pytest.raises(JobRefusedError, match="invalid partition specified: nowhere"):
        bench.run(bench.job("end_with", "0"))
    bench.executor = slurm.executor(memory_gb=900.0)
    with pytest.raises(JobRefusedError, match="configuration is not available"):
        bench.run(bench.job("end_with", "0"))


def test_a_node_without_this_python_is_told_from_a_step_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(JobNotStartedError, match="/nowhere/python"):
        bench.run(bench.job("end_with", "0"))


def test_a_token_is_in_no_script_no_environment_of_a_job_and_no_record_of_slurm(
    slurm: Slurm, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    job = replace(bench.job("wait"), secrets={"HF_TOKEN": SECRET})
    with in_background(bench, job):
        wait_for(lambda: "waiting" in bench.lines)
        number = slurm.queue()[0].split()[0]
        seen = [
            slurm.say("scontrol", "show", "job", "--details", number),
            slurm.say("scontrol", "write", "batch_script", number, "-"),
            (folder_of(bench).path / "job.sh").read_text(),
            *(_environment_of(pid) for pid in _scripts_at(folder_of(bench).path)),
        ]
        private = folder_of(bench).path / "private"
        mode = private.stat().st_mode & 0o777
        (job.output / "go").touch()
    assert len(seen) > 3, "the script's process was found"
    assert not [text for text in seen if SECRET in text]
    assert f"JobId={number}" in seen[0]
    assert mode == 0o600
    assert not private.exists()


def _scripts_at(folder: Path) -> list[Path]:
    """Find the processes of the script in a folder: those whose arguments have it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"job_task" in (words := (entry / "cmdline").read_bytes()) and str(folder).encode() in words:
                found.append(entry)
    return found


def _environment_of(process: Path) -> str:
    return (process / "environ").read_text(errors="replace")


@pytest.fixture
def site(slurm: Slurm, tmp_path: Path) -> Site:
    (tmp_path / "cluster.yaml").write_text(cluster_text(minutes=10))
    return Site("slurm", {"SLURM_CONF": slurm.environment["SLURM_CONF"]}, tmp_path)


@pytest.fixture
def held(slurm: Slurm) -> Iterator[None]:
    """Jobs wait in the queue."""
    slurm.say("scontrol", "update", "partitionname=build", "state=down")
    yield
    slurm.say("scontrol", "update", "partitionname=build", "state=up")


@pytest.mark.usefixtures("held")
def test_jobs_are_left_in_the_queue_seen_from_elsewhere_and_cancelled(slurm: Slurm, site: Site) -> None:
    with site.start(*site.build, "--on-interrupt", "leave") as build:
        wait_for(lambda: len(slurm.queue()) == 3)
        build.send_signal(signal.SIGINT)
        _, said = build.communicate(timeout=30)
    assert build.returncode == 130, said
    assert "the jobs continue" in said
    dependencies = slurm.say("squeue", "-h", "--sort=i", "-o", "%E").splitlines()
    assert [dependency.split("(")[0].split(":")[0] for dependency in dependencies] == ["", "afterok", "afterok"] or (
        dependencies[0] == "(null)" and all(dependency.startswith("afterok:") for dependency in dependencies[1:])
    )
    states = site.states()
    assert list(states) == ["generate", "quantize", "verify"]
    assert all(state.startswith("queued (") for state in states.values())
    assert site.run("cancel", RECIPE).returncode == 0
    assert slurm.queue() == []
    assert list((site.folder / "store" / "jobs").iterdir()) == []


@pytest.mark.usefixtures("held")
def test_without_a_terminal_an_interrupt_cancels_the_jobs(slurm: Slurm, site: Site) -> None:
    with site.start(*site.build) as build:
        wait_for(lambda: len(slurm.queue()) == 3)
        build.send_signal(signal.SIGTERM)
        _, said = build.communicate(timeout=30)
    assert build.returncode == 143, said
    assert slurm.queue() == []
    assert list((site.folder / "store" / "jobs").iterdir()) == []


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("choice", ["leave", "cancel"])
def test_an_interrupt_of_several_builds_reaches_the_jobs_of_each(slurm: Slurm, site: Site, choice: str) -> None:
    command, _, *options = site.build
    with site.start(command, RECIPE, OTHER, *options, "--until", "generate", "--on-interrupt", choice) as build:
        wait_for(lambda: len(slurm.queue()) == 2)
        build.send_signal(signal.SIGINT)
        printed, said = build.communicate(timeout=30)
    assert build.returncode == 130, said
    assert printed.count("interrupted") == 2
    assert len(slurm.queue()) == (2 if choice == "leave" else 0)
    assert len(list((site.folder / "store" / "jobs").iterdir())) == len(slurm.queue())
    assert ("the jobs continue" in said) == (choice == "leave")


def test_several_builds_make_what_they_share_once(slurm: Slurm, site: Site) -> None:
    command, _, *options = site.build
    done = site.run(command, RECIPE, OTHER, *options, "--until", "generate", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["state"] for each in found] == ["built", "built"]
    steps = [step for each in found for step in each["steps"]]
    assert sorted((step["name"], step["reused"]) for step in steps) == [("generate", False), ("generate", True)]
    assert slurm.queue() == []
    assert list((site.folder / "store" / "jobs").iterdir()) == []


def test_jobs_whose_build_was_killed_are_attached_to_and_taken_over(slurm: Slurm, site: Site) -> None:
    with site.start(*site.build, "--until", "quantize") as build:
        wait_for(lambda: len(slurm.queue()) == 2)
        build.kill()
        build.communicate()
    attached = site.run("attach", RECIPE)
    assert attached.returncode == 0, attached.stderr
    assert "✓ quantize: " in attached.stderr
    built = site.run(*site.build, "--until", "quantize", "--json")
    assert built.returncode == 0, built.stderr
    assert [step["name"] for step in json.loads(built.stdout)["steps"]] == ["generate", "quantize"]
    assert "lm_head.weight" in site.run("logs", RECIPE, "quantize").stdout, "the step's own log"
    assert list((site.folder / "store" / "jobs").iterdir()) == []


def test_a_check_that_fails_in_a_job_ends_as_without_a_cluster(slurm: Slurm, site: Site) -> None:
    strict = ("--set", "checks.min_snr_db=90", "--set", "model.generate.num_hidden_layers=1")
    here = site.run("build", RECIPE, *strict, "--executor", "process")
    there = site.run(*site.build, *strict)
    assert (there.returncode, here.returncode) == (7, 7)
    assert there.stderr.splitlines()[-1] == here.stderr.splitlines()[-1]
    assert slurm.queue() == []


def test_a_full_disk_ends_as_without_a_cluster(slurm: Slurm, site: Site) -> None:
    with small_disk(site.folder / "disk", "3m") as disk:
        if disk.within:
            pytest.skip("the disk is visible to this user's own processes alone")
        small = replace(site, folder=disk.path)
        (disk.path / "cluster.yaml").write_text(cluster_text(minutes=10))
        ended = small.run(*small.build, "--until", "generate")
    assert ended.returncode == 6, ended.stderr
    assert "error[DISK_FULL]" in ended.stderr
    assert slurm.queue() == []
