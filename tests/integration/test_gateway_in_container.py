"""What clients are promised holds in a real container, too: the contract's own tests, asked of a hardened one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from orchestrator.bundle.gateway.keys import create_key
from tests.contract.gateway.test_clients import (  # noqa: F401 - pytest runs the tests of a module's names
    NAME,
    client,
    test_langchain_asks_the_base_url,
    test_openai_asks_for_json_of_a_schema,
    test_openai_calls_tools,
    test_openai_cancels,
    test_openai_chats,
    test_openai_completes_and_responds,
    test_openai_is_told_of_a_wrong_key_and_of_an_answer_that_broke_off,
    test_openai_lists_models,
    test_openai_streams_with_its_usage,
    test_openai_understands_errors,
    test_prometheus_reads_the_metrics_of_both,
    test_the_interface_is_as_described,
)
from tests.support.contained import ContainedDeployment
from tests.support.docker_daemon import Daemon
from tests.support.gateway import Deployment, deployed
from tests.support.rehearsal import build_images

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def deployment(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """The deployment that the clients' tests know, in a container."""
    build_images(daemon)
    folder = tmp_path_factory.mktemp("contained")
    bundle = folder / "bundle"
    bundle.mkdir()
    key, _ = create_key("client", bundle / "keys")
    (bundle / "keys").chmod(0o644)
    variables = {
        "NIM_GATEWAY_API_KEYS_FILE": str(bundle / "keys"),
        "NIM_SERVED_MODEL_NAME": NAME,
        "NIM_PER_REQ_METRICS_ENABLE": "1",
    }
    with (
        closing(daemon.connect()) as connection,
        deployed(bundle, kind=ContainedDeployment, variables=variables, client=connection) as server,
    ):
        yield server, key


def test_it_ends_as_asked_and_wrote_no_key(deployment: tuple[Deployment, str]) -> None:
    server, key = deployment
    assert server.stop() == 0
    assert "stopping" in server.log.lower() or "drain" in server.log.lower()
    assert key not in server.log
