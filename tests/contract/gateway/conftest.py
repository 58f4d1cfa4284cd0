"""One deployment for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gateway import Deployment, deployed


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server of the older version, whose engine calls the model `model` and clients call it `tiny`."""
    with deployed(tmp_path_factory.mktemp("server"), variables={"NIM_GATEWAY_MAX_BODY_BYTES": "100000"}) as deployment:
        yield deployment
