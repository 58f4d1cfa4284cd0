"""What differs with vLLM behind the gateway: its routes, its metrics, its states and its kernels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.bundle.gateway import vllm
from tests.support.gateway import VLLM, Deployment, chat, deployed, example_vllm

_OWN = (
    "/invocations", "/ping", "/generative_scoring", "/load", "/scale_elastic_ep", "/is_scaling_elastic_ep", "/tokenize",
    "/detokenize", "/inference/v1/generate", "/inference/v1/abort_requests", "/v1/messages", "/redoc", "/version",
    "/v1/chat/completions/render", "/v1/chat/completions/batch", "/v1/load_lora_adapter", "/sleep", "/collective_rpc",
    "/v1/responses/resp_0",
)  # fmt: skip


@pytest.mark.parametrize("path", _OWN)
def test_a_route_of_vllm_that_a_nim_does_not_have_is_not_reached(vllm_server: Deployment, path: str) -> None:
    before = len(vllm_server.heard)
    for method in ("GET", "POST", "DELETE"):
        assert vllm_server.request(method, path, b"{}" if method == "POST" else None)[0] == 404
    assert path not in {entry.get("path") for entry in vllm_server.heard[before:]}


def test_metrics_have_the_names_of_vllm_and_of_a_nim(vllm_server: Deployment) -> None:
    vllm_server.ask("hello")
    text = vllm_server.get("/v1/metrics")[1]["text"]
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {name.removesuffix("_total") for name in (*vllm.METRICS, *vllm.METRICS.values())} <= names
    (cache,) = re.findall(r'^gpu_cache_usage_perc\{model_name="tiny"[^}]*\} (\S+)', text, flags=re.MULTILINE)
    assert float(cache) == 0.125


@pytest.mark.parametrize("field", ["kv_transfer_params", "vllm_xargs", "prompt_embeds", "early_stopping"])
def test_a_field_that_vllm_would_ignore_or_must_not_get_is_refused(vllm_server: Deployment, field: str) -> None:
    found = vllm_server.request("POST", "/v1/chat/completions", chat("hello", **{field: {}}))
    status, answer = found[0], json.loads(found[2])
    assert (status, answer["error"]["code"]) == (400, "unknown_field")


def test_an_answer_has_a_schema_without_a_further_setting(vllm_server: Deployment) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    status, answer = vllm_server.ask("hello", response_format=form)
    assert status == 200
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "Paris"}


def test_the_kernel_that_the_log_names_is_shown_and_a_dead_engine_ends_the_server(tmp_path: Path) -> None:
    variables = {"NIM_JSONL_LOGGING": "1"}
    with deployed(tmp_path, ready=False, kind=_Nvfp4, serve=example_vllm(), table=VLLM, variables=variables) as server:
        server.wait_for(lambda: server.get("/v1/health/live")[0] == 200)
        server.wait_ready()
        kernel = "FlashInferCutlassNvFp4LinearKernel for NVFP4 GEMM"
        assert f'kernel="{kernel}"' in server.get("/v1/metrics")[1]["text"]
        (line,) = [line for line in map(json.loads, server.log.splitlines()) if line["message"] == "ready"]
        assert line["kernels"] == kernel
        assert server.ask("[dead]")[0] == 500
        assert server.wait_end() == 5
        assert "the engine of vllm serve is dead: its health check has status 503" in server.log


class _Nvfp4(Deployment):
    """A deployment whose checkpoint declares NVFP4."""

    def lay_out(self) -> None:
        super().lay_out()
        config = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
        (self.folder / "model" / "config.json").write_text(json.dumps(config))


def test_it_does_not_listen_while_it_loads(tmp_path: Path) -> None:
    variables = {"STANDIN_SECONDS": "3"}
    with deployed(tmp_path, ready=False, serve=example_vllm(), table=VLLM, variables=variables) as server:
        server.wait_for(lambda: server.get("/v1/health/live")[0] == 200)
        status, answer = server.get("/v1/health/ready")
        assert (status, answer["error"]["code"]) == (503, "not_ready")
        assert "vllm serve is starting: it does not listen" in answer["error"]["message"]
        server.wait_ready()
        assert server.request("POST", "/v1/chat/completions", chat("hello"))[0] == 200
