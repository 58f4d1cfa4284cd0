from __future__ import annotations

from importlib import metadata

import pytest

from orchestrator.cli import versions
from orchestrator.cli.crash_report import write_report
from orchestrator.libraries import installed


def test_the_version_of_a_library_is_what_its_metadata_say() -> None:
    assert installed("numpy") == metadata.version("numpy")


@pytest.mark.parametrize("name", ["no_such_library", "no-such-library", "click2"])
def test_a_library_that_is_missing_has_no_version(name: str) -> None:
    assert installed(name) == "none"


def test_a_crash_of_a_broken_installation_is_reported_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_LIBRARIES", ("click", "no_such_library"))
    file = write_report(ModuleNotFoundError("No module named 'no_such_library'"))
    text = file.read_text()
    file.unlink()
    assert f"click {metadata.version('click')}, no_such_library none" in text
    assert "ModuleNotFoundError" in text
