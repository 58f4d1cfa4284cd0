"""Every query of a bundle has an answer while TensorRT-LLM shows what its version shows, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.bundle.targets.alerts import alerts
from orchestrator.bundle.targets.dashboard import dashboard
from tests.support.gateway import Deployment, chat, deployed
from tests.support.queries import dashboard_queries, metrics_of

OLDER, NEWER = "trtllm-serve-1.3.0rc3", "trtllm-serve-2026-07"
WITHOUT_TLS = {"nim_gateway_certificate_end_timestamp_seconds"}


def _samples(server: Deployment) -> dict[str, float]:
    families = text_string_to_metric_families(server.get("/v1/metrics")[1]["text"])
    return {sample.name: sample.value for family in families for sample in family.samples}


def _ask(server: Deployment) -> None:
    assert server.ask("hello")[0] == 200
    assert server.request("POST", "/v1/chat/completions", chat("[chunks 9]", stream=True))[0] == 200


@pytest.mark.parametrize("table", [OLDER, NEWER])
def test_every_query_has_a_series_on_a_default_deployment(tmp_path: Path, table: str) -> None:
    queries = [*dashboard_queries(dashboard("tiny")), *(alert.query for alert in alerts(1800, "trtllm-serve"))]
    with deployed(tmp_path, table=table, variables={"NIM_CACHE_PATH": "{folder}"}) as server:
        _ask(server)
        found = _samples(server)
        empty = [query for query in queries if not metrics_of(query) - WITHOUT_TLS <= set(found)]
        assert empty == []
        counted = table == OLDER  # TensorRT-LLM has no series for tokens there
        assert found["generation_tokens_total"] == (6 + 9 if counted else 2)
        assert ("trtllm_generation_tokens_total" in found) is not counted


def test_without_its_switches_tensorrt_llm_shows_nothing_and_the_gateway_counts(tmp_path: Path) -> None:
    variables = {"NIM_PER_REQ_METRICS_ENABLE": "0", "NIM_CACHE_PATH": "{folder}"}
    with deployed(tmp_path, variables=variables) as server:
        _ask(server)
        found = _samples(server)
        assert not [name for name in found if name.startswith("trtllm_")]
        lacking = {name for query in dashboard_queries(dashboard("tiny")) for name in metrics_of(query)} - set(found)
        assert lacking == {"gpu_cache_usage_perc"}
        assert found["time_to_first_token_seconds_count"] == 1  # of the streamed one alone
        assert found["time_per_output_token_seconds_count"] == 1
        assert found["e2e_request_latency_seconds_count"] == 2


def test_before_the_first_request_the_gateway_counts_too(tmp_path: Path) -> None:
    with deployed(tmp_path) as server:
        found = _samples(server)
        assert found["num_requests_waiting"] == 0
        assert "gpu_cache_usage_perc" not in found


def test_structured_output_is_obeyed_or_refused(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    with deployed(tmp_path / "default") as server:
        answer = server.ask("Where?", response_format=wanted)[1]
        assert answer["choices"][0]["message"]["content"] == '{"city": "Paris"}'
        answer = server.ask("Where?", response_format={"type": "json_object"})[1]
        assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"answer"}
        assert server.ask("Where?", response_format="json")[0] == 400
    config = "kv_cache_config:\n  free_gpu_memory_fraction: 0.8\n"
    with deployed(tmp_path / "without", ready=False, config=config) as server:
        server.wait_ready()
        status, answer = server.ask("Where?", response_format=wanted)
        assert (status, answer["error"]["code"]) == (400, "structured_output_off")
