"""What the observer of deployments, archives and checks prints where standard error is no terminal."""

from __future__ import annotations

import pytest

from orchestrator.cli import deploy_view
from orchestrator.cli.deploy_view import DeployView
from orchestrator.deployment.observer import Phase
from orchestrator.events import Progress


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(deploy_view, "time", found)
    return found


def test_many_files_are_one_line_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with DeployView() as view:
        for number in range(90):
            view(Progress(number, 90, "bytes", f"check: file-{number}"))
        view(Progress(0, 90, "bytes", "archive: file-0"))
        clock.now += 31
        view(Progress(50, 90, "bytes", "archive: file-50"))
    assert capsys.readouterr().err.splitlines() == [
        "▸ check: file-0: 0 B of 90 B",
        "▸ archive: file-0: 0 B of 90 B",
        "▸ archive: file-50: 50 B of 90 B",
    ]


@pytest.mark.usefixtures("clock")
def test_another_phase_is_shown_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with DeployView() as view:
        view(Phase("image", "loading"))
        view(Progress(1, 2, "bytes", "image: layer"))
        view(Phase("server", "starting"))
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "▸ image",
        "▸ image",
        "▸ server",
    ]
