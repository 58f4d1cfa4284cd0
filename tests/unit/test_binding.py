"""A declared step meets this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.binding import Binder
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import FolderMissingError, PathEscapesError
from orchestrator.steps.step import Folder, Step


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
