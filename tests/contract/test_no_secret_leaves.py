"""One list of canaries, and everything that leaves a machine: no canary is in any of it.

What a build leaves and prints is in `test_secrets.py`; a real copy over ssh, real containers and clusters are in the
integration tests, with the same list.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.bundle.files import SUMS
from orchestrator.bundle.targets import TARGETS, render_files
from orchestrator.catalog.cluster import Cluster
from orchestrator.deployment import two_sparks
from orchestrator.deployment.archive import archive
from orchestrator.deployment.compose_file import read
from orchestrator.deployment.digests import stream_context
from orchestrator.deployment.images import BuiltFrom
from orchestrator.executors.job import Job
from orchestrator.executors.kubernetes_manifest import ManifestWriter, as_yaml
from orchestrator.executors.scheduler import Resources
from orchestrator.executors.slurm import SlurmScheduler
from tests.support import canaries
from tests.support.bundles import contents_of
from tests.support.two_folders import TwoFolders, write_bundle, write_files

FOR_ONE, FOR_TWO = "llama3-70b-nvfp4-published", "qwen3-235b-a22b-nvfp4-published"
RESOURCES = Resources(minutes=90, memory=3 << 30, gpus=1)


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command is typed in a shell that has all of them."""
    for name, value in canaries.VARIABLES.items():
        monkeypatch.setenv(name, value)


def bundle_for_one(folder: Path, artifacts: Path, *, embed: bool = False) -> Path:
    write_files(folder, replace(contents_of(FOR_ONE, artifacts), embed_model=embed))
    canaries.fill(folder, (*canaries.PLACES, *canaries.IN_THE_MODEL))
    return folder


def test_the_search_finds_a_canary_wherever_it_is(tmp_path: Path) -> None:
    assert canaries.found_in(tmp_path, b"", "KEY=") == []
    canaries.fill(tmp_path)
    assert len(canaries.found_in(tmp_path)) == len(canaries.PLACES)
    for value in canaries.VARIABLES.values():
        assert canaries.found_in(f"a {value} b") == [f"{value} in an output"]
        secret = json.dumps({"data": value * 2})
        assert canaries.found_in(secret.encode().hex()) == []
    assert canaries.found_in("canary-of-the-proxy-0123456789") != []


@pytest.mark.parametrize("recipe", [FOR_ONE, FOR_TWO])
def test_none_is_in_the_files_for_any_target(recipe: str, tmp_path: Path) -> None:
    rendered = render_files(contents_of(recipe, tmp_path))
    assert {name.partition("/")[0] for name in rendered} & set(TARGETS)
    assert canaries.found_in(*rendered.values()) == []


@pytest.mark.parametrize("embed", [False, True])
def test_none_is_in_what_docker_gets_to_build_an_image_of(embed: bool, tmp_path: Path) -> None:
    folder = bundle_for_one(tmp_path / "bundle", tmp_path / "artifacts", embed=embed)
    context = b"".join(stream_context(folder, "Dockerfile"))
    with tarfile.open(fileobj=io.BytesIO(context)) as file:
        names = file.getnames()
    assert {"start_server.sh", "gateway/keys.py", "serve.json"} <= set(names)
    assert ("model/config.json" in names) == embed
    assert canaries.found_in(context) == []


def test_none_is_in_what_docker_gets_to_build_the_image_for_two_of(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", tmp_path / "artifacts")
    canaries.fill(folder)
    for one in two_sparks.images_of(folder):
        assert one.service.build is not None
        context = b"".join(stream_context(one.folder, one.service.build.dockerfile))
        assert len(context) > 1024
        assert canaries.found_in(context) == []


class _Docker:
    """A Docker whose every image has three bytes."""

    class api:  # noqa: N801 - as docker-py names it
        timeout = 60
        base_url = "tcp://elsewhere"

        @staticmethod
        def get_image(_: str) -> Iterator[bytes]:
            return iter([b"one"])


def test_none_is_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle_for_one(tmp_path / "bundle", tmp_path / "artifacts")
    canaries.fill(folder, ("images/0/00000.part",))
    found = SimpleNamespace(id="sha256:1", attrs={"Size": 3})
    monkeypatch.setattr("orchestrator.deployment.images.ensure", lambda *_: "sha256:1")
    monkeypatch.setattr("orchestrator.deployment.images.find", lambda *_: found)
    monkeypatch.setattr("orchestrator.deployment.images.architecture_of", lambda *_: "arm64")
    file = tmp_path / "bundle.tar"
    wanted = [BuiltFrom(service, folder) for service in read(folder, {}).chosen(()).values()]
    archive(_Docker(), folder, wanted, file, observer=lambda _: None)  # type: ignore[arg-type]
    with tarfile.open(file) as written:
        names = {name.partition("/")[2] for name in written.getnames()}
    assert {"secrets/README", "model/config.json", "compose.yaml", "images/0/00000.part", SUMS} <= names
    assert canaries.found_in(file) == []


def test_none_comes_to_a_second_spark_or_is_said(tmp_path: Path) -> None:
    pair = TwoFolders(tmp_path, write_bundle(tmp_path / "bundle", tmp_path / "artifacts"))
    canaries.fill(pair.head.bundle)
    said = [pair.start(*words, **canaries.VARIABLES) for words in (("copy", "--dry-run"), ("copy",), ("check",))]
    assert [each.returncode for each in said] == [0, 0, 0], said
    pair.head.set("up-fails")
    said += [pair.start(action, **canaries.VARIABLES) for action in ("start", "status", "logs", "stop")]
    assert (pair.worker.bundle / SUMS).is_file()
    assert list((pair.worker.folder / "images").iterdir())
    assert canaries.found_in(pair.worker.folder, *(each.stdout + each.stderr for each in said)) == []


def job_in(folder: Path, *, token: bool) -> Job:
    secrets = {"HF_TOKEN": canaries.VARIABLES["HF_TOKEN"]} if token else {}
    argv = ("python3", "-m", "payload")
    return Job("download", "c0ffee", "tiny", argv, folder / "step" / "out", secrets=secrets, network=True)


def test_none_is_in_what_slurm_gets(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(f'#!/bin/sh\n{{ env; echo "$@"; cat "$4" "$3"; }} >{tmp_path}/seen 2>&1; echo 7\n')
    (programs / "sbatch").chmod(0o755)
    cluster = Cluster.model_validate_json('{"schema_version": 1, "slurm": {"containers": "none"}}')
    assert cluster.slurm
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    slurm = SlurmScheduler(cluster, cluster.slurm, lambda _: RESOURCES, environment)
    script = tmp_path / "job.sh"
    script.write_text(slurm.request(job_in(tmp_path, token=True), "tiny.download"))
    (by_hand,) = slurm.by_hand([job_in(tmp_path, token=True)]).values()
    assert slurm.submit(script) == "7"
    assert "job.sh" in (tmp_path / "seen").read_text()
    assert canaries.found_in(script, by_hand, tmp_path / "seen") == []
    assert set(slurm.private_values(job_in(tmp_path, token=True))) == {"HF_TOKEN", "HTTPS_PROXY"}
    assert set(slurm.private_values(replace(job_in(tmp_path, token=False), network=False))) == set()


def test_none_is_in_what_kubernetes_gets(tmp_path: Path) -> None:
    references = {name: {"name": "hub", "key": name.lower()} for name in ("HF_TOKEN", "HTTPS_PROXY")}
    site = {"image": "registry.example/orchestrator:1", "volume": {"claim": "models", "path": str(tmp_path)}}
    text = json.dumps({"schema_version": 1, "kubernetes": {**site, "secrets": references}})
    cluster = Cluster.model_validate_json(text)
    assert cluster.kubernetes
    writer = ManifestWriter(cluster, cluster.kubernetes, os.environ, 30)
    written = as_yaml(writer.write(job_in(tmp_path, token=True), "tiny-download", RESOURCES))
    assert written.count("secretKeyRef") == len(references)
    assert canaries.found_in(written) == []
