"""How `deploy` waits for a server, with a container and a gateway that answer as a test says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import events
from orchestrator.deployment import server
from orchestrator.deployment.container import RECIPE
from orchestrator.deployment.gateway_client import Gateway, Health
from orchestrator.deployment.observer import Done, Phase
from orchestrator.deployment.server import wait_until_ready
from orchestrator.errors import PortUnreachableError, ServerNotReadyError
from orchestrator.values import frozen

SILENT = Health(live=False, ready=False, message="", reached=False)
READY = Health(live=True, ready=True, message="")


@dataclass
class Container:
    """A container that runs; inside, its gateway answers from a moment on."""

    clock: list[float]
    answers_after: float
    name: str = "a-server-1"
    status: str = "running"
    attrs: dict[str, Any] = field(default_factory=lambda: {"RestartCount": 0, "State": {}})
    labels: dict[str, str] = field(default_factory=lambda: {RECIPE: "a-recipe"})

    def reload(self) -> None: ...

    def logs(self, **_: int) -> bytes:
        return b"loading"

    def exec_run(self, command: list[str]) -> tuple[int, bytes]:
        assert "/v1/health/live" in command[-1]
        return (0 if self.clock[0] >= self.answers_after else 1), b""


@frozen
class Port(Gateway):
    """A published port that gives these answers, the last one forever."""

    answers: tuple[Health, ...] = ()
    asked: Iterator[Health] = field(default_factory=lambda: iter(()))

    def health(self) -> Health:
        return next(self.asked, self.answers[-1])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


def wait(container: Container, *answers: Health) -> tuple[float, list[str]]:
    said: list[str] = []

    def observe(event: events.Event | Phase | Done) -> None:
        if isinstance(event, Phase):
            said.append(event.text)

    port = Port("http://127.0.0.1:8355", answers=answers, asked=iter(answers))
    return wait_until_ready(container, port, 600, observe), said  # type: ignore[arg-type]


def test_a_port_that_cannot_be_reached_is_an_error_long_before_the_limit(clock: list[float]) -> None:
    with pytest.raises(PortUnreachableError) as refused:
        wait(Container(clock, answers_after=2), SILENT)
    assert "http://127.0.0.1:8355 cannot be reached from here" in refused.value.message
    assert "docker port a-server-1" in refused.value.hint
    assert clock[0] < 15


def test_a_server_that_is_silent_inside_as_well_is_waited_for(clock: list[float]) -> None:
    waited, said = wait(Container(clock, answers_after=1e9), *[SILENT] * 100, READY)
    assert waited == 50
    assert set(said) == {"starting", "starting; http://127.0.0.1:8355 does not answer yet"}
    with pytest.raises(ServerNotReadyError):
        wait(Container(clock, answers_after=1e9), SILENT)
