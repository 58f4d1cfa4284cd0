"""The guide to Kubernetes is true: its commands run, in their order, on a stand-in, and its objects are valid."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import kubectl
from tests.support.guides import ROOT, blocks, codes, program_in
from tests.support.kubernetes import Kubernetes
from tests.support.manifests import VERSIONS, core_problems, objects

_TIME = 120


def test_the_commands_of_the_guide_work_in_their_order(kubernetes: Kubernetes, tmp_path: Path) -> None:
    kubernetes.secrets["hf"] = {"token": "hf_canary"}
    project, volume = tmp_path / "project", tmp_path / "models"
    (project / "recipes").mkdir(parents=True)
    volume.mkdir()
    (project / "token.txt").write_text("hf_canary")
    settings = next(text for text in blocks("kubernetes", "yaml") if text.startswith("schema_version"))
    (project / "cluster.yaml").write_text(settings.replace("/models", str(volume)))
    shutil.move(project, volume / "project")  # its files are read by the jobs
    bin_folder = program_in(tmp_path / "bin")
    (bin_folder / "kubectl").write_text(f'#!/bin/sh\nexec {sys.executable} {kubectl.__file__} "$@"\n')
    (bin_folder / "kubectl").chmod(0o755)
    real = shutil.which("kubectl")
    assert real
    environment = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "KUBECONFIG": kubernetes.environment["KUBECONFIG"],
        "ORCHESTRATOR_STORE": str(volume / "store"),
        "REAL_KUBECTL": real,
    }
    ended = []
    for block in blocks("kubernetes", "sh"):
        done = subprocess.run(
            ("bash", "-euo", "pipefail", "-c", block.replace("/models", str(volume))),
            cwd=volume / "project",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIME,
        )
        assert done.returncode == 0, f"{block}{done.stdout}{done.stderr}"
        ended.append(done)
    secret, built, followed, _, rendered, again = ended
    assert "kind: Secret" in secret.stdout
    assert "✓ verify: " in built.stderr
    assert "quantize" in followed.stdout
    assert "runAsNonRoot: true" in rendered.stdout
    assert again.stderr.count("reused") == 3, "the jobs of submit.sh left the results"
    assert (volume / "project" / "dist" / "tiny-llama-w4a16-nvfp4" / "compose.yaml").is_file()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_of_the_guide_are_valid(version: str) -> None:
    found = [each for text in blocks("kubernetes", "yaml") for each in objects(text) if "kind" in each]
    assert [each["kind"] for each in found] == ["PersistentVolumeClaim", "Role"]
    assert [problem for each in found for problem in core_problems(each, version)] == []


def test_the_codes_of_the_guide_are_those_of_the_program() -> None:
    found = codes("kubernetes")
    assert len(found) == 7
    assert all(said == is_so for said, is_so in found.values()), found
