"""load-model.sh brings the model whole into a volume, or says that it did not; kubectl is a stand-in that runs here."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.bundle.files import sums_text
from orchestrator.bundle.targets import cluster
from tests.support.bundles import contents_of

KUBECTL = """\
#!/usr/bin/env bash
# A cluster of one folder: /model is $CLUSTER/model, /etc/model is $CLUSTER/sums.
set -euo pipefail
echo "$*" >> "$CLUSTER/calls"
while [[ "$1" == --* ]]; do shift 2; done
case "$1" in
  get) if [[ "$2" == pod ]]; then echo pod/loader; else cat "$CLUSTER/annotation" 2>/dev/null || true; fi ;;
  apply) mkdir -p "$CLUSTER/model" "$CLUSTER/sums" && cp "${@: -1}/SHA256SUMS" "$CLUSTER/sums" ;;
  wait) [[ "$*" != *condition=Complete* || -e "$CLUSTER/model/.complete" ]] ;;
  annotate) printf %s "${@: -1}" | cut -d= -f2 > "$CLUSTER/annotation" ;;
  exec)
    while [[ "$1" != -- ]]; do shift; done
    shift
    arguments=()
    for argument in "$@"; do
      argument="${argument//\\/etc\\/model/$CLUSTER/sums}"
      arguments+=("${argument//\\/model/$CLUSTER/model}")
    done
    "${arguments[@]}"
    ;;
  *) exit 64 ;;
esac
"""


@dataclass(frozen=True)
class World:
    bundle: Path
    cluster: Path

    def load(self, *options: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.cluster}/bin:{os.environ['PATH']}", "CLUSTER": str(self.cluster)}
        script = self.bundle / "model-volume" / "load-model.sh"
        return subprocess.run([script, *options], env=environment, capture_output=True, text=True, check=False)

    def loaded(self) -> dict[str, bytes]:
        folder = self.cluster / "model"
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != ".complete"
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    contents = contents_of("llama3-70b-nvfp4-engine", tmp_path / "artifacts")
    bundle, state = tmp_path / "a bundle", tmp_path / "cluster"
    for path, text in cluster.model_volume(contents).items():
        (bundle / path).parent.mkdir(parents=True, exist_ok=True)
        (bundle / path).write_text(text)
    (bundle / "model-volume" / "load-model.sh").chmod(0o755)
    for part in contents.parts:
        for file in part.files:
            place = bundle / part.name / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((part.artifact.folder / file.path).read_bytes())
    (state / "bin").mkdir(parents=True)
    (state / "bin" / "kubectl").write_text(KUBECTL)
    (state / "bin" / "kubectl").chmod(0o755)
    return World(bundle, state)


def test_every_file_arrives_and_a_second_run_has_nothing_to_do(world: World) -> None:
    done = world.load("--namespace", "models")
    assert done.returncode == 0, done.stderr
    sent = {path.relative_to(world.bundle / "model").as_posix(): path.read_bytes()
            for path in (world.bundle / "model").rglob("*") if path.is_file()}  # fmt: skip
    assert world.loaded() == sent
    calls = (world.cluster / "calls").read_text().splitlines()
    assert all(call.startswith("--namespace models ") for call in calls)
    again = world.load("--namespace", "models")
    assert again.returncode == 0
    assert "has the model already" in again.stdout
    assert len((world.cluster / "calls").read_text().splitlines()) == len(calls) + 1


def test_the_name_of_a_strangers_file_is_a_name_and_no_option(world: World) -> None:
    names = (
        "--checkpoint=1",
        "--checkpoint-action=exec=touch ran",
        "-C",
        "back\\nslash.json",
        "$(touch ran).json",
        "ä.json",
    )
    model, sums = world.bundle / "model", world.bundle / "model-volume" / "SHA256SUMS"
    for name in names:
        (model / name).write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    sums.write_text(sums_text(digests) + sums.read_text())
    done = world.load()
    assert done.returncode == 0, done.stderr
    assert set(names) <= set(world.loaded())
    assert not list(world.bundle.rglob("ran"))
    assert not list(world.cluster.rglob("ran"))


def test_a_file_that_is_not_what_was_built_is_found_and_the_volume_stays_incomplete(world: World) -> None:
    engine = world.bundle / "model" / "trtllm_engine" / "rank0.engine"
    whole = engine.read_bytes()
    engine.write_bytes(b"spoiled")
    failed = world.load()
    assert failed.returncode == 1
    assert "rank0.engine: FAILED" in failed.stderr
    assert "did not arrive whole" in failed.stderr
    assert not (world.cluster / "model" / ".complete").exists()
    engine.write_bytes(whole)
    assert world.load().returncode == 0


def test_a_file_that_is_missing_ends_it(world: World) -> None:
    (world.bundle / "model" / "config.json").unlink()
    failed = world.load()
    assert failed.returncode != 0
    assert "config.json" in failed.stderr
    assert not (world.cluster / "annotation").exists()
