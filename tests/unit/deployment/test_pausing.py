"""Servers that are stopped for a while are started again as they were, and nothing else is touched."""

from __future__ import annotations

from typing import Any, cast

import pytest
from docker.errors import NotFound

import docker
from orchestrator.deployment.container import RECIPE, SERVICE
from orchestrator.deployment.pausing import running_servers, start_again, stop_servers


class Container:
    """A container that keeps what was done to it."""

    def __init__(self, name: str, service: str, status: str) -> None:
        self.name, self.status, self.done = name, status, list[str]()
        self.labels = {RECIPE: name.partition("-")[0], SERVICE: service}
        self.attrs = {"Config": {"StopTimeout": 7}}

    def stop(self, timeout: int) -> None:
        self.status = "exited"
        self.done.append(f"stop {timeout}")

    def start(self) -> None:
        self.status = "running"
        self.done.append("start")


class Client:
    """Docker with a few containers."""

    def __init__(self, *found: Container) -> None:
        self.found, self.containers = {one.name: one for one in found}, self

    def list(self, **_: Any) -> list[Container]:  # noqa: ANN401 - Docker's filters
        return list(self.found.values())

    def get(self, name: str) -> Container:
        if name not in self.found:
            raise NotFound(name)
        return self.found[name]


@pytest.fixture
def client() -> Client:
    return Client(
        Container("a-server", "server", "running"),
        Container("b-server", "server", "exited"),
        Container("a-grafana", "grafana", "running"),
    )


def test_only_what_ran_is_stopped_and_started(client: Client) -> None:
    as_docker = cast("docker.DockerClient", client)
    running = running_servers(as_docker)
    assert running == ["a-server"]
    stop_servers(as_docker, running)
    start_again(as_docker, running)
    assert {name: one.done for name, one in client.found.items()} == {
        "a-server": ["stop 7", "start"],
        "b-server": [],
        "a-grafana": [],
    }


def test_a_container_that_is_gone_stays_away(client: Client) -> None:
    as_docker = cast("docker.DockerClient", client)
    stop_servers(as_docker, ["gone"])
    start_again(as_docker, ["gone", "b-server"])
    assert client.found["b-server"].done == ["start"]
