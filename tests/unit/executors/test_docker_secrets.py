"""Secrets as files: what a killed orchestrator left of them goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.executors.docker_secrets import sweep_secrets, write_secrets
from orchestrator.store import owner


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.parametrize("another", ["boot", "process"])
def test_secrets_of_an_orchestrator_that_was_killed_are_removed_and_ours_are_not(
    monkeypatch: pytest.MonkeyPatch, another: str
) -> None:
    boot, process, _ = owner.this_process().split(":")
    gone = f"another-boot-id:{process}:1" if another == "boot" else f"{boot}:{process}:0"
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.store.owner.this_process", lambda: gone)
        left = write_secrets({"HF_TOKEN": "hf_canary"})["HF_TOKEN"]
    ours = write_secrets({"HF_TOKEN": "hf_canary"})["HF_TOKEN"]
    sweep_secrets()
    assert not left.parent.exists()
    assert ours.read_text() == "hf_canary"


def test_what_only_looks_like_one_stays(tmp_path: Path) -> None:
    for name in ("orchestrator-secrets-", "orchestrator-secrets-abcdefgh", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "orchestrator-secrets-a.1.2-abcdefgh").symlink_to(tmp_path / "other")
    sweep_secrets()
    assert len(list(tmp_path.iterdir())) == 4
