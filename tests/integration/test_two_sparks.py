"""A recipe for two Sparks, served by two hosts in network namespaces: checked, started, asked, broken, stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.bundle.targets import render_files
from tests.support.bundles import contents_of
from tests.support.docker_daemon import do_without
from tests.support.sparks import LINK, Sparks, why_not

RECIPE = "qwen3-235b-a22b-nvfp4-published"


def render(folder: Path, artifacts: Path) -> Path:
    """Write a bundle for two, with a model of a few bytes."""
    contents = contents_of(RECIPE, artifacts)
    files = {name: text.encode() for name, text in render_files(contents).items()}
    for part in contents.parts:
        files |= {f"{part.name}/{file.path}": (part.artifact.folder / file.path).read_bytes() for file in part.files}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755 if content.startswith(b"#!") else 0o644)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    return folder


@pytest.fixture
def sparks(tmp_path: Path) -> Iterator[Sparks]:
    if reason := why_not():
        do_without(reason)
    made = Sparks(tmp_path / "hosts", render(tmp_path / "bundle", tmp_path / "artifacts"))
    try:
        made.begin()
        yield made
    finally:
        made.end()


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
        assert (host.bundle / "two-sparks" / "keys" / "user").stat().st_mode & 0o077 == 0

    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8355/v1/models', timeout=20).read().decode())"
    models = sparks.on_head("python3", "-c", ask)
    assert RECIPE in models.stdout, models.stderr
    assert "ready" in sparks.start("status").stdout

    stopped = sparks.start("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert sparks.start("status").stdout.splitlines() == ["here:  not there", "there: not there", "not ready"]
    assert not (sparks.worker.bundle / "two-sparks" / "keys").exists()


def log_of(sparks: Sparks) -> str:
    logs = [sparks.worker.folder / "sshd.log", *(h.folder / "container.log" for h in (sparks.head, sparks.worker))]
    return "".join(f"\n== {log}\n{log.read_text()}" for log in logs if log.is_file())


def test_every_difference_between_the_two_is_told_at_once_and_nothing_is_started(sparks: Sparks) -> None:
    (sparks.worker.folder / "image").write_text("sha256:another")
    sparks.worker.give("nvidia-smi", "#!/bin/sh\necho 570.1\n")
    (sparks.worker.bundle / "model" / "config.json").write_text("{}")
    refused = sparks.start(LINK_SPEED="200000")
    assert refused.returncode == 7
    for told in ("NVIDIA driver differs", "image differs", "runs at 10000 Mb/s", "model/config.json", "4 of these"):
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
    assert sparks.start("status").stdout.splitlines()[:2] == ["here:  not there", "there: not there"]
