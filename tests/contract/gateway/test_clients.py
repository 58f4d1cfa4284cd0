"""Clients as people use them, pointed at a deployment: openai, LangChain's NVIDIA endpoints, Prometheus, OpenAPI."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from langchain_nvidia_ai_endpoints import ChatNVIDIA
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode

from orchestrator.bundle.gateway.keys import create_key
from orchestrator.bundle.gateway.openapi import describe
from orchestrator.bundle.gateway.routes import ROUTES
from tests.support.gateway import Deployment, deployed

NAME = "meta/llama-tiny"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """A server with keys, metrics of TensorRT-LLM, and a name that its engine does not know."""
    folder = tmp_path_factory.mktemp("clients")
    key, _ = create_key("client", folder / "keys")
    variables = {
        "NIM_GATEWAY_API_KEYS_FILE": str(folder / "keys"),
        "NIM_SERVED_MODEL_NAME": NAME,
        "NIM_PER_REQ_METRICS_ENABLE": "1",
    }
    with deployed(folder / "bundle", variables=variables) as server:
        yield server, key


@pytest.fixture
def client(deployment: tuple[Deployment, str]) -> Iterator[openai.OpenAI]:
    server, key = deployment
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as made:
        yield made


def test_openai_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "hello"}])
    assert answer.model == NAME
    assert answer.choices[0].message.content == "Paris is what a stand-in answers."
    assert answer.usage is not None
    assert answer.usage.total_tokens == 14


def test_openai_streams_with_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "hello"}], stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {NAME}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).startswith("Paris is")
    assert chunks[-1].usage is not None


def test_openai_keeps_what_a_model_says_about_names(client: openai.OpenAI) -> None:
    said = 'a key "model":"model" and "model": "model"'
    answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": f"[echo] {said}"}])
    assert said in str(answer.choices[0].message.content)


def test_openai_calls_tools(client: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    answer = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=tools,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert (calls[0].function.name, json.loads(calls[0].function.arguments)) == ("weather", {"city": "Paris"})


def test_openai_asks_for_json_of_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"capital": {"type": "string"}, "rank": {"type": "integer"}}}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": "hello"}],
        response_format=asked,
    )
    assert json.loads(answer.choices[0].message.content or "") == {"capital": "Paris", "rank": 1}


def test_openai_completes_and_responds(client: openai.OpenAI) -> None:
    assert client.completions.create(model=NAME, prompt="hello").choices[0].text.startswith("Paris")
    assert client.responses.create(model=NAME, input="hello").output_text.startswith("Paris")
    events = list(client.responses.create(model=NAME, input="hello", stream=True))
    assert events[-1].type == "response.completed"
    assert events[-1].response.model == NAME


def test_openai_retrieves_a_model_by_its_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="The model 'other' does not exist; this server has meta/llama-tiny"):
        client.models.retrieve("other")


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]


@pytest.mark.parametrize(("question", "model", "kind"), [
    ("[error 400]", NAME, openai.BadRequestError),
    ("[error 422]", NAME, openai.UnprocessableEntityError),
    ("[error 500]", NAME, openai.InternalServerError),
    ("[break]", NAME, openai.InternalServerError),
    ("hello", "gpt-4", openai.NotFoundError),
])  # fmt: skip
def test_openai_understands_errors(
    client: openai.OpenAI, question: str, model: str, kind: type[openai.APIStatusError]
) -> None:
    with pytest.raises(kind) as raised:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}])
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["message"]
    assert raised.value.request_id


def test_openai_is_told_of_a_wrong_key_and_of_an_answer_that_broke_off(
    client: openai.OpenAI, deployment: tuple[Deployment, str]
) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "[break] [chunks 10]"}], stream=True
        ))  # fmt: skip
    assert deployment[1] not in deployment[0].log


def test_openai_cancels(deployment: tuple[Deployment, str]) -> None:
    server, key = deployment
    before = len(server.heard)

    async def cancel() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as made:
            question: Any = [{"role": "user", "content": "[slow 0.1] [chunks 600]"}]
            stream = await made.chat.completions.create(model=NAME, messages=question, stream=True)
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(cancel())
    server.wait_for(lambda: any(entry.get("event") == "the client went away" for entry in server.heard[before:]), 30)


@pytest.mark.filterwarnings("ignore")  # of LangChain, about names that it guesses models by
def test_langchain_asks_the_base_url(deployment: tuple[Deployment, str]) -> None:
    server, key = deployment
    model = ChatNVIDIA(base_url=f"{server.url}/v1", model=NAME, api_key=key)
    assert model.invoke("hello").content == "Paris is what a stand-in answers."
    assert "".join(str(chunk.content) for chunk in model.stream("hello")).startswith("Paris is")
    assert [each.id for each in model.available_models] == [NAME]


def test_prometheus_reads_the_metrics_of_both(deployment: tuple[Deployment, str]) -> None:
    server, key = deployment
    server.ask("hello", model=NAME, headers={"Authorization": f"Bearer {key}"})
    _, headers, body = server.request("GET", "/v1/metrics")
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    for name in ("gpu_cache_usage_perc", "num_requests_running", "e2e_request_latency_seconds", "request_success"):
        assert {sample.labels["model_name"] for sample in families[name].samples} == {NAME}
    assert families["gpu_cache_usage_perc"].samples[0].value == 0.125
    assert "trtllm_kv_cache_utilization" in families
    assert families["nim_gateway_requests"].type == "counter"


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        (route.path, mode)
        for route in ROUTES.values()
        for mode in GenerationMode
        if route.for_model or mode is GenerationMode.POSITIVE  # nothing is wrong about a request without parameters
    ],
)
def test_the_interface_is_as_described(deployment: tuple[Deployment, str], path: str, mode: GenerationMode) -> None:
    server, key = deployment
    operation = schemathesis.openapi.from_dict(describe([NAME]))[path][ROUTES[path].method]

    @given(case=operation.as_strategy(mode))
    @settings(max_examples=10, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def check(case: schemathesis.Case[Any]) -> None:
        # what a model makes of an odd question is the model's matter: the stand-in is not strict
        excluded = [schemathesis.checks.negative_data_rejection] if mode is GenerationMode.NEGATIVE else []
        headers = {"Authorization": f"Bearer {key}"}
        case.call_and_validate(base_url=server.url, headers=headers, excluded_checks=excluded)

    check()


class _Collector(ThreadingHTTPServer):
    """Takes traces."""

    daemon_threads = True
    got: list[tuple[str, bytes]]


class _Take(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
        """Say nothing."""


def test_traces_go_on_through_the_gateway_and_to_the_collector(tmp_path: Path) -> None:
    collector = _Collector(("127.0.0.1", 0), _Take)
    collector.got = []
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    trace = "1" * 32
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with deployed(tmp_path, variables=variables) as server:
        server.ask("secret-prompt", headers={"traceparent": f"00-{trace}-{'2' * 16}-01"})
        heard = {name.lower(): value for name, value in server.heard[-1]["headers"].items()}
        assert heard["traceparent"].startswith(f"00-{trace}-")
        assert "2" * 16 not in heard["traceparent"]  # the gateway's span is the parent now
    end = time.monotonic() + 20
    while not collector.got and time.monotonic() < end:
        time.sleep(0.05)
    collector.shutdown()
    collector.server_close()
    path, body = collector.got[0]
    assert path == "/v1/traces"
    assert bytes.fromhex(trace) in body
    assert b"/v1/chat/completions" in body
    assert b"http.request.method" in body
    assert b"secret-prompt" not in body


def test_without_the_packages_of_opentelemetry_it_says_so_and_serves(tmp_path: Path) -> None:
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    (hiding / "opentelemetry.py").write_text("raise ImportError('hidden', name='opentelemetry')\n")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(hiding)}
    with deployed(tmp_path / "bundle", variables=variables) as server:
        assert server.ask("hello")[0] == 200
        assert "no traces are sent: install opentelemetry-sdk" in server.log
