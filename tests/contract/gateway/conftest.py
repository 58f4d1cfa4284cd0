"""One deployment for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.edge_llm import TABLE, EdgeDeployment, example_edge_llm
from tests.support.gateway import VLLM, Deployment, deployed, example_vllm


@pytest.fixture(scope="session")
def server(trtllm_server: Deployment) -> Deployment:
    """The server of tests for which the runtime does not matter."""
    return trtllm_server


@pytest.fixture(scope="session")
def trtllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server of the older version, whose engine calls the model `model` and clients call it `tiny`."""
    with deployed(tmp_path_factory.mktemp("server"), variables={"NIM_GATEWAY_MAX_BODY_BYTES": "100000"}) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The same with vLLM behind it."""
    variables = {"NIM_GATEWAY_MAX_BODY_BYTES": "100000"}
    folder = tmp_path_factory.mktemp("vllm")
    with deployed(folder, serve=example_vllm(), table=VLLM, variables=variables) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def edge_llm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The same with TensorRT Edge-LLM behind it."""
    variables = {"NIM_GATEWAY_MAX_BODY_BYTES": "100000"}
    folder = tmp_path_factory.mktemp("edge")
    with deployed(folder, kind=EdgeDeployment, serve=example_edge_llm(), table=TABLE, variables=variables) as server:
        yield server
