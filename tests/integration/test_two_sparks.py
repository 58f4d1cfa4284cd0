"""A recipe for two Sparks, served by two hosts in network namespaces: checked, started, asked, broken, stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sparks import LINK, Host, Sparks, kill_all, two_sparks
from tests.support.two_folders import RECIPE


@pytest.fixture
def sparks(tmp_path: Path) -> Iterator[Sparks]:
    with two_sparks(tmp_path) as made:
        yield made


def test_two_hosts_serve_one_model_and_stop_together(sparks: Sparks) -> None:
    dry = sparks.start("--dry-run")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert "there: " in dry.stdout
    assert "up.sh worker" in dry.stdout
    assert not (sparks.worker.bundle / "two-sparks" / "keys").exists()

    started = sparks.start()
    assert started.returncode == 0, started.stdout + started.stderr + log_of(sparks)
    assert "the same weights on both" in started.stdout
    assert "is served on" in started.stdout
    assert sorted(sparks.ranks.read_text().split("\n"))[1:] == [f"0 {LINK}", f"1 {LINK}"]
    for host in (sparks.head, sparks.worker):
        given = json.loads((host.folder / "container.json").read_text())
        assert given["user"] == "1000:1000"
        assert given["UCX_NET_DEVICES"] == LINK
        assert given["NCCL_IB_HCA"] == "rocep1s0f1"
        assert (host.bundle / "two-sparks" / "keys" / "user").stat().st_mode & 0o077 == 0

    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8355/v1/models', timeout=20).read().decode())"
    models = sparks.on_head("python3", "-c", ask)
    assert RECIPE in models.stdout, models.stderr
    assert "ready" in sparks.start("status").stdout

    again = sparks.start()
    assert again.returncode == 0, again.stderr
    assert "both run already" in again.stdout

    stopped = sparks.start("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert sparks.start("status").stdout.splitlines() == ["here:  not there", "there: not there", "not ready"]
    assert not (sparks.worker.bundle / "two-sparks" / "keys").exists()


def log_of(sparks: Sparks) -> str:
    logs = [sparks.worker.folder / "sshd.log", *(h.folder / "container.log" for h in (sparks.head, sparks.worker))]
    return "".join(f"\n== {log}\n{log.read_text()}" for log in logs if log.is_file())


def test_every_difference_between_the_two_is_told_at_once_and_nothing_is_started(sparks: Sparks) -> None:
    (sparks.worker.folder / "image").write_text("other layers")
    (sparks.worker.folder / "driver").write_text("570.1")
    (sparks.worker.bundle / "model" / "config.json").write_text("{}")
    refused = sparks.start(LINK_SPEED="200000")
    assert refused.returncode == 7
    for told in ("NVIDIA driver differs", "image differs", "runs at 10000 Mb/s", "model/config.json", "5 checks"):
        assert told in refused.stderr, told
    assert not (sparks.worker.folder / "container.log").exists()


def test_a_spark_that_cannot_be_reached_or_is_not_named_ends_with_what_to_do(sparks: Sparks) -> None:
    assert "write the second Spark's address" in sparks.start(PEER_ADDRESS="").stderr
    unreachable = sparks.start(PEER="192.168.177.99")
    assert unreachable.returncode == 6
    assert "ssh-copy-id" in unreachable.stderr
    assert sparks.start("begin").returncode == 2


def test_a_server_that_dies_takes_both_down_and_shows_its_last_lines(sparks: Sparks) -> None:
    sparks.head.give("trtllm-serve", "#!/bin/sh\necho no CUDA device; exit 1\n")
    ended = sparks.start()
    assert ended.returncode == 5, ended.stdout + ended.stderr
    assert "no CUDA device" in ended.stdout
    assert "error[SERVER_ENDED]" in ended.stderr
    assert sparks.start("status").stdout.splitlines()[:2] == ["here:  not there", "there: not there"]


def runs(host: Host) -> bool:
    """Tell whether its container runs."""
    pid = (host.folder / "container.pid").read_text()
    return Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_ended(host: Host) -> None:
    deadline = time.monotonic() + 60
    while runs(host):
        assert time.monotonic() < deadline, (host.folder / "container.log").read_text()
        time.sleep(0.1)


def test_a_worker_that_is_lost_ends_the_server_with_its_code(sparks: Sparks) -> None:
    assert sparks.start("--no-sums").returncode == 0
    assert "first one's ends when it misses it" in sparks.start_on_worker("stop").stdout
    wait_until_ended(sparks.head)
    log = (sparks.head.folder / "container.log").read_text()
    assert "the second Spark is lost" in log or "the job is aborted" in log
    assert "trtllm-serve ended with status" in log
    assert "not ready" in sparks.start("status").stdout


def test_a_head_that_is_lost_ends_the_worker(sparks: Sparks) -> None:
    assert sparks.start("--no-sums").returncode == 0
    kill_all(sparks.head)
    wait_until_ended(sparks.worker)
    assert f"the head on {sparks.head.address} is gone" in (sparks.worker.folder / "container.log").read_text()


def test_a_cut_cable_ends_both(sparks: Sparks) -> None:
    assert sparks.start("--no-sums").returncode == 0
    sparks.cut_the_cable()
    for host in (sparks.head, sparks.worker):
        wait_until_ended(host)
    logs = [(host.folder / "container.log").read_text() for host in (sparks.head, sparks.worker)]
    assert "the second Spark is lost" in logs[0] or "the job is aborted" in logs[0]
    assert f"the head on {sparks.head.address} is gone" in logs[1]


@pytest.mark.parametrize("role", ["head", "worker"])
def test_after_a_reboot_of_either_a_start_brings_both_back(sparks: Sparks, role: str) -> None:
    assert sparks.start("--no-sums").returncode == 0
    lost, left = (sparks.head, sparks.worker) if role == "head" else (sparks.worker, sparks.head)
    sparks.reboot(lost)
    wait_until_ended(left)
    assert sparks.start("status").stdout.splitlines()[-1] == "not ready"
    again = sparks.start("--no-sums")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is served on" in again.stdout
