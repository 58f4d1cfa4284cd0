"""The command line of tensorrt-edgellm-serve: where its engine is found, whose option wins, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.documents import Serve, parse_serve
from orchestrator.bundle.gateway.errors import DocumentError, GatewayError
from orchestrator.bundle.gateway.launch import decide_launch
from orchestrator.bundle.gateway.settings import read_settings
from orchestrator.bundle.gateway.variables import Environment
from tests.support.edge_llm import example_edge_llm, write_engine
from tests.support.gateway import LaunchWorld


class World(LaunchWorld):
    """A model and its engine."""

    def __init__(self, folder: Path, example: Serve) -> None:
        super().__init__(folder, example)
        self.place = write_engine(folder / "model")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, example_edge_llm())


def test_the_document_says_which_runtime_it_is_by_the_key_of_its_version() -> None:
    text = example_edge_llm().to_json()
    assert json.loads(text)["edge_llm"] == "0.11.0"
    assert parse_serve(text, "serve.json") == example_edge_llm()


def test_the_recipe_alone_starts_its_own_command_on_loopback_with_a_cache_of_its_own(world: World) -> None:
    launch = world.launch({"NIM_CACHE_PATH": "/cache"})
    assert launch.command() == (
        "tensorrt-edgellm-serve", str(world.folder / "model"), "--host", "127.0.0.1", "--port", "8001",
        "--max-input-len", "2048", "--max-kv-cache-capacity", "4096", "--max-batch-size", "8",
        "--enable-in-flight-batching", "--cache-dir", "/cache/edge_llm/efefefefefefefef", "--served-model-name", "tiny",
    )  # fmt: skip
    assert launch.links is not None
    assert launch.links.source == world.folder / "model" / ".edgellm"
    assert launch.links.folder / launch.links.place == Path("/cache/edge_llm/efefefefefefefef") / world.place
    assert (launch.max_model_len, launch.max_batch_size, launch.guided, launch.config) == (4096, 8, True, None)
    assert launch.environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"NIM_ENABLE_KV_CACHE_REUSE": "1"}, ("--enable-context-reuse",)),
        ({"NIM_LOG_LEVEL": "TRACE"}, ("--log-level", "debug")),
        ({"NIM_LOG_LEVEL": "DEFAULT"}, ("--log-level", "info")),
        ({"NIM_LOG_LEVEL": "CRITICAL"}, ("--log-level", "error")),
        ({"NIM_MAX_MODEL_LEN": "4096"}, ("--max-kv-cache-capacity", "4096")),
        ({"NIM_PASSTHROUGH_ARGS": "--max-queued-requests 4"}, ("--max-queued-requests", "4")),
    ],
)
def test_variables_of_a_nim_are_options_of_the_server(
    world: World, values: dict[str, str], words: tuple[str, ...]
) -> None:
    argv = world.launch(values).argv
    place = argv.index(words[0])
    assert argv[place : place + len(words)] == words
    assert argv.count(words[0]) == 1


def test_what_a_recipe_switched_on_can_be_switched_off(world: World) -> None:
    reusing = dataclasses.replace(world.serve(), arguments=(*world.serve().arguments, "--enable-context-reuse"))
    for value, count in (("1", 1), ("0", 0)):
        environment = Environment({"NIM_ENABLE_KV_CACHE_REUSE": value})
        launch = decide_launch(reusing, read_settings(environment, reusing), environment, ())
        assert launch.argv.count("--enable-context-reuse") == count
    assert world.launch({"NIM_DISABLE_CUDA_GRAPH": "1"}).environment["EDGELLM_DISABLE_CUDA_GRAPH"] == "1"
    assert world.launch({"NIM_PER_REQ_METRICS_ENABLE": "0"}).argv


@pytest.mark.parametrize(
    ("values", "arguments", "reason"),
    [
        ({"NIM_MAX_MODEL_LEN": "2048"}, (), "was built for 4096: build another one"),
        ({"NIM_MAX_MODEL_LEN": "8192"}, (), "was built for 4096 at most"),
        ({}, ("--max-batch-size", "4"), "was built for 8: build another one"),
        ({}, ("--max-input-len", "4096"), "was built for 2048: build another one"),
        ({"NIM_TENSOR_PARALLEL_SIZE": "2"}, (), "has no such setting"),
        ({"NIM_PIPELINE_PARALLEL_SIZE": "1"}, (), "has no such setting"),
        ({"NIM_TRUST_CUSTOM_CODE": "1"}, (), "has no such setting"),
        ({"NIM_KVCACHE_PERCENT": "80"}, (), "the size that it was built for"),
        ({"NIM_GUIDED_DECODING_BACKEND": "xgrammar"}, (), "by itself"),
        ({"NIM_PER_REQ_METRICS_ENABLE": "1"}, (), "the gateway counts"),
        ({"EDGELLM_PLUGIN_PATH": "/tmp/x.so"}, (), "the image decides it"),
        ({"EDGELLM_FORCE_TOKENS_FILE": "x"}, (), "replaces the model's answers"),
        ({}, ("--api-key", "nimg-1"), "NIM_GATEWAY_API_KEYS_FILE"),
        ({}, ("--cache-dir", "/elsewhere"), "NIM_CACHE_PATH"),
        ({}, ("--clear-engine-cache",), "links to one engine"),
        ({}, ("--max-input-length", "4"), "did you mean --max-input-len"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_do_instead(
    world: World, values: dict[str, str], arguments: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(GatewayError, match=reason) as raised:
        world.launch(values, *arguments)
    assert "nimg-1" not in str(raised.value)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"path": 7}', '{"path": "../engines"}', '{"path": "/engines"}'])
def test_an_engine_without_a_place_in_a_cache_is_refused(world: World, content: str | None) -> None:
    file = world.folder / "model" / ".edgellm" / "cache_entry.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(DocumentError, match=r"cache_entry\.json"):
        world.launch({})
