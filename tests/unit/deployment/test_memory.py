"""A server that cannot fit is refused before the running one is stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import NotFound

from orchestrator.deployment.compose_file import read
from orchestrator.deployment.container import FOLDER, MEMORY
from orchestrator.deployment.memory import server_memory
from orchestrator.deployment.start import Deployment
from orchestrator.errors import MemoryBudgetError
from orchestrator.events import Warned
from tests.support.air_gap import write_bundle

GB = 10**9


@dataclass
class FakeDocker:
    """A Docker in which an older server of the same bundle runs, if there are labels."""

    labels: dict[str, str] | None
    done: list[str] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.networks = SimpleNamespace(list=lambda **_: [SimpleNamespace(name="small_default")])
        self.containers = SimpleNamespace(get=self._get, list=lambda **_: [])
        self.api = SimpleNamespace(api_version="1.47", create_container=self._create)

    def _get(self, _: str) -> SimpleNamespace:
        if self.labels is None:
            raise NotFound(str(self.done))
        attributes = {
            "HostConfig": {"PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]}},
            "Config": {},
        }
        return SimpleNamespace(
            name="small-server-1",
            labels=self.labels,
            attrs=attributes,
            status="running",
            stop=lambda **_: self.done.append("stop"),
            remove=lambda **_: self.done.append("remove"),
            start=lambda: self.done.append("start"),
            reload=lambda: None,
        )

    def _create(self, **arguments: Any) -> dict[str, str]:  # noqa: ANN401 - Docker's
        self.made = arguments["labels"]
        self.labels = {}
        return {"Id": "new"}


def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int, running: int | None
) -> tuple[FakeDocker, list[object]]:
    """Deploy a server of 40 GB of weights and 100 GB in all."""
    folder = write_bundle(tmp_path)
    (folder / "prediction.json").write_text(
        json.dumps({"weights_bytes": 40 * GB, "peak_memory_bytes": {"serve": 100 * GB}})
    )
    image = SimpleNamespace(id="sha256:1")
    monkeypatch.setattr("orchestrator.deployment.images.find", lambda *_: image)
    monkeypatch.setattr("orchestrator.deployment.images.ensure", lambda *_: image.id)
    monkeypatch.setattr("orchestrator.deployment.start.require_port", lambda *_: None)
    docker = FakeDocker(None if running is None else {FOLDER: str(folder), MEMORY: str(running)})
    said: list[object] = []
    memory = server_memory(folder, available)
    assert memory
    Deployment(docker, folder, read(folder, shell={}), (), said.append, memory).start()  # type: ignore[arg-type]
    return docker, [event for event in said if isinstance(event, Warned)]


def test_weights_that_do_not_fit_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr("orchestrator.deployment.start.remove", lambda *_: stopped.append("removed"))
    with pytest.raises(MemoryBudgetError, match=r"40\.0 GB, and 39\.0 GB of memory are available, once the running"):
        start(tmp_path, monkeypatch, available=9 * GB, running=30 * GB)
    assert stopped == []


def test_a_smaller_cache_than_planned_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker, (warning,) = start(tmp_path, monkeypatch, available=10 * GB, running=30 * GB)
    assert "100.0 GB, and 40.0 GB of memory are available, once the running server is stopped" in str(warning)
    assert docker.done[-1] == "start"
    assert docker.made[MEMORY] == str(100 * GB)


@pytest.mark.parametrize(("available", "running"), [(70 * GB, 30 * GB), (100 * GB, None)])
def test_a_server_that_fits_is_started_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: int, running: int | None
) -> None:
    if running is None:
        with pytest.raises(MemoryBudgetError, match=r"38\.0 GB of memory are available$"):
            start(tmp_path / "short", monkeypatch, available=38 * GB, running=None)
    _, warnings = start(tmp_path / "enough", monkeypatch, available=available, running=running)
    assert warnings == []


def test_a_bundle_without_a_prediction_is_not_compared(tmp_path: Path) -> None:
    assert server_memory(tmp_path, 0) is None
