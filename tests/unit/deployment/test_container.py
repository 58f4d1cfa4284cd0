"""The arguments of a service's container, and how its state is read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.deployment.checks import holds
from orchestrator.deployment.compose_file import ComposeFile, Service, published
from orchestrator.deployment.container import SERVICE, BundleService, create_arguments, labels
from orchestrator.deployment.deployed_containers import describe_container


@pytest.mark.parametrize(
    ("port", "bound", "address"),
    [
        ("127.0.0.1:8355:8000", "127.0.0.1", "127.0.0.1:8355"),
        ("[::1]:8355:8000", "::1", "[::1]:8355"),
        ("[::]:8355:8000", "::", "[::1]:8355"),
    ],
)
def test_a_port_is_bound_to_an_address_that_engines_understand_and_found_again(
    tmp_path: Path, port: str, bound: str, address: str
) -> None:
    compose = ComposeFile(name="a", services={"server": Service(image="i", ports=(port,))})
    told = create_arguments(
        BundleService(tmp_path, compose, "server"), image="i", content="", ulimits={}, version="1.44"
    )
    bindings = told["host_config"]["PortBindings"]
    assert bindings == {"8000/tcp": [{"HostIp": bound, "HostPort": "8355"}]}
    container = SimpleNamespace(
        name="a-server-1",
        labels={**labels(tmp_path), SERVICE: "other"},
        status="running",
        attrs={
            "State": {"Status": "running"},
            "HostConfig": {"PortBindings": bindings},
            "RestartCount": 0,
            "Config": {"Image": "i", "Env": ["NAME_WITHOUT_VALUE"]},
        },
    )
    assert holds(container, published(port))  # type: ignore[arg-type]
    assert describe_container(container).address == address  # type: ignore[arg-type]
