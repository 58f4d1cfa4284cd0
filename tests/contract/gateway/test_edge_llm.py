"""What differs with TensorRT Edge-LLM behind the gateway: its engine in a cache, its one route and its states."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.metrics import READY
from tests.support.edge_llm import TABLE, EdgeDeployment, example_edge_llm, write_engine
from tests.support.gateway import Deployment, chat, deployed

_OWN = (
    "/v1/messages", "/v1/messages/count_tokens", "/v1/audio/transcriptions", "/v1/audio/speech", "/v1/voices",
    "/health/ready", "/redoc", "/v1/completions", "/v1/responses", "/v1/responses/resp_0",
)  # fmt: skip


@pytest.mark.parametrize("path", _OWN)
def test_a_route_that_the_server_has_beside_those_of_a_nim_is_not_reached(
    edge_llm_server: Deployment, path: str
) -> None:
    before = len(edge_llm_server.heard)
    for method in ("GET", "POST", "DELETE"):
        assert edge_llm_server.request(method, path, b"{}" if method == "POST" else None)[0] == 404
    assert path not in {entry.get("path") for entry in edge_llm_server.heard[before:]}


def test_the_engine_of_the_bundle_is_served_and_no_other_one_is_built(edge_llm_server: Deployment) -> None:
    assert "Using cached engine bundle" in edge_llm_server.log
    assert "Building" not in edge_llm_server.log
    (engine,) = (edge_llm_server.folder / "cache").rglob("llm.engine")
    assert engine.resolve() == (edge_llm_server.folder / "model" / ".edgellm" / "llm.engine").resolve()


def test_the_gateway_counts_because_the_server_does_not(edge_llm_server: Deployment) -> None:
    edge_llm_server.ask("hello")
    text = edge_llm_server.get("/v1/metrics")[1]["text"]
    assert f'{READY}{{model_name="tiny"}} 1' in text
    (tokens,) = re.findall(r'^generation_tokens_total\{model_name="tiny"\} (\d+)', text, flags=re.MULTILINE)
    assert int(tokens) > 0
    assert "gpu_cache_usage_perc" not in text
    assert "/metrics" not in {entry.get("path") for entry in edge_llm_server.heard}


@pytest.mark.parametrize("field", ["min_p", "repetition_penalty", "audio", "apply_chat_template", "ignore_eos", "user"])
def test_a_field_that_the_server_would_change_or_must_not_get_is_refused(
    edge_llm_server: Deployment, field: str
) -> None:
    found = edge_llm_server.request("POST", "/v1/chat/completions", chat("hello", **{field: 1}))
    status, answer = found[0], json.loads(found[2])
    assert (status, answer["error"]["code"]) == (400, "unknown_field")


def test_what_the_server_refuses_is_said_in_its_words(edge_llm_server: Deployment) -> None:
    status, answer = edge_llm_server.ask("hello", frequency_penalty=0.5)
    assert (status, answer["error"]["message"]) == (400, "a penalty is not supported by the Edge-LLM runtime")


def test_links_of_another_start_are_mended_and_a_server_that_dies_ends_the_gateway(tmp_path: Path) -> None:
    class Moved(EdgeDeployment):
        """A server whose cache has a link to where the model was."""

        def lay_out(self) -> None:
            super().lay_out()
            place = self.folder / "cache" / "edge_llm" / ("ef" * 8) / write_engine(self.folder / "model")
            place.mkdir(parents=True)
            (place / "llm.engine").symlink_to(self.folder / "gone" / "llm.engine")
            (place / "config.json").symlink_to(self.folder / "model" / ".edgellm" / "config.json")

    with deployed(tmp_path, kind=Moved, serve=example_edge_llm(), table=TABLE) as server:
        assert "Using cached engine bundle" in server.log
        with pytest.raises((OSError, AssertionError)):
            assert server.ask("[die]")[0] == 200
        assert server.wait_end() == 5
        assert "told to die" in server.log
