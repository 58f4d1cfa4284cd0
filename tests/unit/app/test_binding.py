"""A declared step meets this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from orchestrator.app.binding import Binder, installed
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import FolderMissingError, PathEscapesError
from orchestrator.executors.job import ImageBuild
from orchestrator.steps.step import PROVENANCE, Folder, Step

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
    assert installed("python") == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert installed("numpy") == metadata.version("numpy")
    assert installed("no_such_library") == "none"


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
