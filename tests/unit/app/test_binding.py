"""A declared step meets this machine."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from orchestrator.app.binding import Binder, host_version
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import FolderMissingError, PathEscapesError
from orchestrator.executors.job import ImageBuild
from orchestrator.steps.step import CODE, FILES, PROVENANCE, SCRATCH, Folder, Input, Step

ROOT = Path(__file__).resolve().parents[3]


def step(path: str) -> Step:
    return Step("import", ("python3",), (), folders=(Folder(path, "/source"),))


@pytest.fixture
def binder(tmp_path: Path) -> Binder:
    return Binder(Catalog(Project(tmp_path)), "mine", "amd64", {}, {})


def key(binder: Binder, path: str) -> str:
    return binder.key(step(path), "process", {})


def test_a_folder_that_is_not_there_is_named(binder: Binder) -> None:
    with pytest.raises(FolderMissingError, match=r"there is no .*models/mine"):
        key(binder, "models/mine")


def test_a_relative_folder_must_stay_in_the_project(binder: Binder) -> None:
    with pytest.raises(PathEscapesError):
        key(binder, "../elsewhere")


def test_a_changed_file_of_a_folder_changes_the_key(binder: Binder, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    before = key(binder, "model")
    (tmp_path / "model" / "config.json").write_text("[]")
    assert key(binder, "model") != before
    (tmp_path / "model" / "config.json").write_text("{}")
    assert key(binder, "model") == before


def test_limits_reach_the_command_and_not_the_key(binder: Binder, tmp_path: Path) -> None:
    plain, limited = (Step("quantize", ("python3",), (), limits=limits) for limits in ({}, {"THREADS": "2"}))
    assert binder.key(plain, "process", {}) == binder.key(limited, "process", {})
    job = binder.job(limited, "process", binder.key(limited, "process", {}), {}, tmp_path)
    assert job.environment == {"THREADS": "2"}


DIGEST = f"sha256:{'7' * 64}"
BASE = "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"


@pytest.fixture
def pinned() -> Binder:
    """Those images of the project whose digest a lock has."""
    return Binder(Catalog(Project(ROOT)), "mine", "arm64", {"tensorrt-llm-1.2.1": DIGEST}, {})


def test_a_container_starts_from_the_image_with_the_digest_of_the_lock(pinned: Binder, tmp_path: Path) -> None:
    job = pinned.job(Step("engine", ("trtllm-build",), (), image="tensorrt-llm-1.2.1"), "docker", "", {}, tmp_path)
    assert job.image is not None
    assert (job.image.reference, job.image.architecture) == (f"{BASE}@{DIGEST}", "arm64")
    assert job.image.build is None


@pytest.mark.parametrize(
    ("image", "cleared"), [("vllm-0.27.1", False), ("vllm-openai-0.27.1", True), ("tensorrt-llm-1.2.1", False)]
)
def test_only_an_image_that_is_a_server_itself_starts_without_its_entry_point(
    pinned: Binder, tmp_path: Path, image: str, *, cleared: bool
) -> None:
    job = pinned.job(Step("verify", ("vllm",), (), image=image), "docker", "", {}, tmp_path)
    assert job.image is not None
    assert job.image.clears_entrypoint is cleared


def test_an_image_of_our_own_is_built_from_its_base_with_the_digest_of_the_lock(pinned: Binder, tmp_path: Path) -> None:
    job = pinned.job(Step("quantize", ("python3",), (), image="quantizer-0.46.0"), "docker", "", {}, tmp_path)
    assert job.image is not None
    assert job.image.reference == "orchestrator/quantizer:0.46.0"
    folder = ROOT / "docker"
    assert job.image.build == ImageBuild(
        folder / "quantizer.Dockerfile", folder, f"{BASE}@{DIGEST}", {"MODELOPT_VERSION": "0.46.0"}
    )


def test_a_step_on_this_machine_has_no_image(pinned: Binder, tmp_path: Path) -> None:
    step = Step("verify", ("python3",), (), image="tensorrt-llm-1.2.1", portable=True)
    assert pinned.job(step, "process", "", {}, tmp_path).image is None


@pytest.mark.parametrize(
    ("executor", "image"),
    [("docker", f"{BASE}@{DIGEST}"), ("process", "python 9, numpy 9, ml_dtypes 9, tokenizers 9")],
)
def test_a_step_is_told_what_it_was_made_from(pinned: Binder, tmp_path: Path, executor: str, image: str) -> None:
    step = Step("benchmark", ("python3",), (), image="tensorrt-llm-1.2.1", provenance=True)
    binder = replace(pinned, versions=lambda _: "9")
    job = binder.job(step, executor, "a key", {}, tmp_path, digests={"quantize": "q", "engine": "e"})
    told = json.loads(str(job.environment[PROVENANCE]))
    assert told == {"key": "a key", "image": image, "inputs": {"engine": "e", "quantize": "q"}}


def test_versions_are_those_of_this_interpreter() -> None:
    assert host_version("python") == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert host_version("numpy") == metadata.version("numpy")
    assert host_version("no_such_library") == "none"


@pytest.mark.parametrize("own", [False, True])
def test_an_image_is_built_from_the_nearest_dockerfile_of_its_path(
    binder: Binder, tmp_path: Path, *, own: bool
) -> None:
    if own:
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "quantizer.Dockerfile").write_text("FROM scratch\n")
    quantize = Step("quantize", ("hf_ptq.py",), (), image="quantizer-0.46.0")
    job = binder.job(quantize, "docker", "0" * 64, {}, tmp_path / "attempt")
    assert job.image is not None
    assert job.image.build is not None
    folder = (tmp_path if own else ROOT) / "docker"
    assert (job.image.build.dockerfile, job.image.build.context) == (folder / "quantizer.Dockerfile", folder)


def test_a_step_in_a_container_depends_on_the_digest_that_the_lock_has_for_its_image(pinned: Binder) -> None:
    step = Step("engine", ("trtllm-build",), (), image="tensorrt-llm-1.2.1")
    fields = pinned.key_fields(step, "docker", {})
    assert (fields["image"], fields["python"], fields["libraries"]) == (f"{BASE}@{DIGEST}", {}, {})
    without = replace(pinned, image_digests={})
    assert without.key_fields(step, "docker", {})["image"] == BASE
    other = replace(pinned, image_digests={"tensorrt-llm-1.2.1": f"sha256:{'8' * 64}"})
    assert len({binder.key(step, "docker", {}) for binder in (pinned, without, other)}) == 3


def test_a_step_on_this_machine_depends_on_its_python_and_on_no_image(pinned: Binder) -> None:
    step = Step("verify", ("python3",), (), image="tensorrt-llm-1.2.1", portable=True, libraries=("torch",))
    fields = replace(pinned, versions=lambda name: f"{name} 9").key_fields(step, "process", {})
    assert fields["image"] is None
    assert fields["python"] == {name: f"{name} 9" for name in ("python", "numpy", "ml_dtypes", "tokenizers")}
    assert fields["libraries"] == {"torch": "torch 9"}


def test_a_container_says_how_much_is_pulled_for_it(pinned: Binder, tmp_path: Path) -> None:
    binder = replace(pinned, image_sizes={"tensorrt-llm-1.2.1": 7})
    for image in ("tensorrt-llm-1.2.1", "quantizer-0.46.0"):  # the second one is built from the first
        job = binder.job(Step("engine", ("x",), (), image=image), "docker", "", {}, tmp_path)
        assert job.image is not None
        assert job.image.pulled == 7


def test_a_job_mounts_what_its_step_declares(binder: Binder, tmp_path: Path) -> None:
    step = Step(
        "quantize", ("python3",), (), inputs=(Input("download", "/in"),), folders=(Folder("texts", "/texts"),),
        files={"a.json": "{}"}, needs_code=True, resumable=True,
    )  # fmt: skip
    inputs, attempt = {"download": tmp_path / "downloaded"}, tmp_path / "attempt"
    mounts = {
        str(mount.target): (mount.source, mount.read_only)
        for mount in binder.job(step, "process", "k", inputs, attempt).mounts
    }
    code = ROOT / "orchestrator"
    assert mounts == {
        "/in": (tmp_path / "downloaded", True),
        "/texts": (tmp_path / "texts", True),
        f"{CODE}/orchestrator": (code, True),
        FILES: (attempt / "files", True),
        SCRATCH: (attempt / "scratch", False),
    }
    kept = binder.job(step, "process", "k", inputs, attempt, scratch=tmp_path / "kept").mounts
    assert [mount.source for mount in kept if str(mount.target) == SCRATCH] == [tmp_path / "kept"]
    assert binder.job(Step("x", ("y",), ()), "process", "k", {}, attempt).mounts == ()


def test_our_code_is_found_in_a_container_by_its_path(pinned: Binder, tmp_path: Path) -> None:
    step = Step("verify", ("python3",), (), image="tensorrt-llm-1.2.1", needs_code=True, environment={"A": "1"})
    assert pinned.job(step, "docker", "", {}, tmp_path).environment == {"A": "1", "PYTHONPATH": CODE}
    assert pinned.job(step, "process", "", {}, tmp_path).environment == {"A": "1"}
    other = replace(step, needs_code=False)
    assert pinned.job(other, "docker", "", {}, tmp_path).environment == {"A": "1"}


def test_a_job_gets_the_secrets_that_its_step_names_and_this_machine_has(binder: Binder, tmp_path: Path) -> None:
    step = Step("download", ("python3",), (), secrets=("HF_TOKEN", "NGC_API_KEY"), network=True, gpus=2)
    known = replace(binder, secrets={"HF_TOKEN": "hf_x", "OTHER": "y"})
    job = known.job(step, "process", "a key", {}, tmp_path)
    assert job.secrets == {"HF_TOKEN": "hf_x"}
    assert (job.step, job.key, job.recipe, job.argv) == ("download", "a key", "mine", ("python3",))
    assert (job.network, job.gpus, job.output) == (True, 2, tmp_path / "out")


def test_provenance_is_written_only_for_a_step_that_wants_it_and_knows_its_inputs(
    pinned: Binder, tmp_path: Path
) -> None:
    step = Step("benchmark", ("python3",), (), image="tensorrt-llm-1.2.1", provenance=True)
    assert PROVENANCE not in pinned.job(step, "docker", "k", {}, tmp_path).environment
    plain = replace(step, provenance=False)
    assert PROVENANCE not in pinned.job(plain, "docker", "k", {}, tmp_path, digests={}).environment
    assert PROVENANCE in pinned.job(step, "docker", "k", {}, tmp_path, digests={}).environment


def test_a_large_file_is_known_by_its_status_and_a_small_one_by_its_bytes(binder: Binder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    keys = {}
    for size in (1 << 20, (1 << 20) + 1):
        file = folder / "weights"
        file.write_bytes(b"a" * size)
        os.utime(file, ns=(1, 1))
        before = key(binder, "model")
        os.utime(file, ns=(2, 2))
        keys[size] = key(binder, "model") == before
    assert keys == {1 << 20: True, (1 << 20) + 1: False}


def test_a_file_that_moves_or_grows_in_a_folder_changes_the_key(binder: Binder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    keys = [key(binder, "model")]
    (folder / "x").write_text("1")
    keys.append(key(binder, "model"))
    (folder / "x").rename(folder / "y")
    keys.append(key(binder, "model"))
    (folder / "y").rename(folder / "a" / "y")
    keys.append(key(binder, "model"))
    assert len(set(keys)) == 4


def test_a_single_file_may_stand_for_a_folder(binder: Binder, tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text("1")
    before = key(binder, "text.jsonl")
    file.write_text("2")
    assert key(binder, "text.jsonl") != before
