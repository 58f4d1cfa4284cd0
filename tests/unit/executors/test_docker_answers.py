"""How Docker's answers are read: pulls, ends and complaints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, DockerException

from orchestrator.errors import DiskFullError, DockerUnavailableError, GpuRuntimeMissingError, MachineError
from orchestrator.events import Progress
from orchestrator.executors.docker_client import explain
from orchestrator.executors.docker_container import outcome
from orchestrator.executors.docker_images import PullProgress

OUT = Path("/attempt/out")


def layer(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


def test_the_layers_of_a_pull_are_added_up() -> None:
    progress = PullProgress("image:1")
    events = [
        progress.take(message)
        for message in (
            {"status": "Pulling from image", "id": "1"},
            layer("a", "Pulling fs layer"),
            layer("a", "Downloading", 10, 100),
            layer("b", "Downloading", 50, 200),
            layer("a", "Download complete"),
            layer("a", "Extracting", 5, 100),
            layer("b", "Verifying Checksum"),
            layer("b", "Pull complete"),
            {"status": "Digest: sha256:…"},
        )
    ]
    reported = [(event.done, event.total) for event in events if event is not None]
    assert reported == [(10, 100), (60, 300), (150, 300), (300, 300)]
    assert events[2] == Progress(10, 100, "bytes", "pull image:1")


def test_a_pull_of_layers_that_are_there_reports_nothing() -> None:
    assert PullProgress("image:1").take(layer("a", "Already exists")) is None


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"ExitCode": 0, "OOMKilled": False}, (0, False, False)),
        ({"ExitCode": 7, "OOMKilled": False}, (7, False, False)),
        ({"ExitCode": 137, "OOMKilled": True}, (137, True, False)),
        ({"ExitCode": 5, "OOMKilled": True}, (5, True, False)),
        ({"ExitCode": 137, "OOMKilled": False}, (137, False, True)),
        ({"ExitCode": 143, "OOMKilled": False}, (143, False, True)),
        ({"ExitCode": 139, "OOMKilled": False}, (139, False, False)),
        ({"ExitCode": 137}, (137, False, True)),
    ],
    ids=["done", "failed", "memory", "memory of a child", "killed", "stopped", "crashed", "says nothing of memory"],
)
def test_how_a_container_ended_is_read_from_its_state(state: dict[str, Any], expected: tuple[int, bool, bool]) -> None:
    read = outcome(state, OUT, adopted=False)
    assert (read.exit_status, read.out_of_memory, read.killed) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', GpuRuntimeMissingError),
        ("OCI runtime create failed: nvidia-container-cli: initialization error: nvml error", GpuRuntimeMissingError),
        ("failed to discover GPU vendor from CDI: no known GPU vendor found", GpuRuntimeMissingError),
        ("write /var/lib/docker/tmp/x: no space left on device", DiskFullError),
        ('exec: "docker-init": executable file not found in $PATH', DockerUnavailableError),
        ("something else", MachineError),
    ],
)
def test_a_complaint_of_the_engine_becomes_an_error_of_ours(said: str, expected: type[MachineError]) -> None:
    explained = explain(APIError("500 Server Error", explanation=said), "starting")
    assert type(explained) is expected
    assert said in explained.message


def test_an_engine_that_says_nothing_is_not_there() -> None:
    explained = explain(DockerException("Connection aborted"), "starting")
    assert isinstance(explained, DockerUnavailableError)
    assert explained.hint
