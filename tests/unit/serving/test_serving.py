from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.errors import RecipeInvalidError
from orchestrator.recipe.load import RecipeBook
from orchestrator.serving import trtllm
from orchestrator.serving.server import Command, Places
from orchestrator.serving.trtllm_config import bench_config, config_text, llm_api_config
from orchestrator.steps.shape import Shape
from tests.unit.steps.recipes import CATALOG, DRAFT, recipe

BOOK = RecipeBook(CATALOG.project.recipes)


def config(**serve: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of `serve`
    return dict(llm_api_config(recipe(serve=serve), CATALOG.image("tensorrt-llm-1.2.1")))


def command(image: str = "tensorrt-llm-1.2.1", **serve: Any) -> Command:  # noqa: ANN401 - as above
    server = Shape(recipe(serve=serve, image=image), CATALOG).server
    return trtllm.command(server, Places("/checkpoint", "0.0.0.0", 8000))


TENSORRT_LLM = [n for n in BOOK.names if CATALOG.image(BOOK.load(n).recipe.image).runtime == "tensorrt_llm"]


@pytest.mark.parametrize("name", TENSORRT_LLM)
def test_no_setting_stands_on_the_command_line_and_in_the_file(name: str) -> None:
    loaded = BOOK.load(name).recipe
    image = CATALOG.image(loaded.image)
    server = Shape(loaded, CATALOG).server
    line = trtllm.command(server, Places("/m", "127.0.0.1", loaded.serve.port))
    known = server.options
    said = {str(word).lstrip("-") for word in line if word in known}
    assert not said & set(llm_api_config(loaded, image))
    assert not any(word in line for word in ("--kv_cache_free_gpu_memory_fraction", "--kv_cache_dtype"))


def test_the_server_listens_where_it_is_told() -> None:
    line = command()
    assert line[line.index("--host") + 1] == "0.0.0.0"


def test_limits_and_parsers_are_on_the_command_line() -> None:
    line = command(max_batch_size=4, max_seq_len=99, reasoning_parser="qwen3", tool_parser="qwen3")
    given = dict(pairwise(line))
    assert (given["--max_batch_size"], given["--max_seq_len"]) == ("4", "99")
    assert (given["--reasoning_parser"], given["--tool_parser"]) == ("qwen3", "qwen3")


def test_the_models_own_limit_is_left_alone() -> None:
    assert "--max_seq_len" not in command()


def test_the_served_name_is_given_where_the_server_takes_one() -> None:
    assert "--served_model_name" not in command(served_model_name="mine")
    assert "--served_model_name" in command("tensorrt-llm-1.3.0rc22", served_model_name="mine")


def test_no_server_reports_to_others_where_it_can_be_told_not_to() -> None:
    assert "--no-telemetry" in command("tensorrt-llm-1.3.0rc22")
    assert "--no-telemetry" not in command()


def test_the_cache_is_in_the_file() -> None:
    cache = {"dtype": "fp8", "free_gpu_memory_fraction": 0.7, "max_tokens": 100, "enable_block_reuse": False}
    assert config(kv_cache=cache)["kv_cache_config"] == cache


def test_an_engines_cache_keeps_the_type_it_was_built_with() -> None:
    engine = recipe(backend="tensorrt")
    cache = llm_api_config(engine, CATALOG.image(engine.image))["kv_cache_config"]
    assert isinstance(cache, dict)
    assert "dtype" not in cache


def test_further_settings_of_the_cache_join_it() -> None:
    cache = config(options={"kv_cache_config": {"host_cache_size": 0}})["kv_cache_config"]
    assert cache["host_cache_size"] == 0
    assert cache["enable_block_reuse"] is True


def test_a_setting_of_the_cache_is_not_said_twice() -> None:
    with pytest.raises(RecipeInvalidError, match=r"kv_cache_config\.dtype has its own field in the recipe"):
        config(options={"kv_cache_config": {"dtype": "fp8"}})


@pytest.mark.parametrize("key", ["max_batch_size", "tensor_parallel_size", "speculative_config", "backend"])
def test_what_has_a_field_is_no_option(key: str) -> None:
    with pytest.raises(RecipeInvalidError, match="has its own field in the recipe"):
        config(options={key: 1})


def test_a_key_that_the_image_does_not_know_is_refused() -> None:
    with pytest.raises(RecipeInvalidError, match="is no key of the LLM API"):
        config(options={"cuda_graphs": True})


@pytest.mark.parametrize(
    ("speculative", "expected"),
    [
        (
            {"type": "draft_target", "draft": DRAFT, "max_draft_len": 3},
            {"decoding_type": "DraftTarget", "max_draft_len": 3, "speculative_model_dir": "/draft"},
        ),
        (
            {"type": "eagle3", "draft": DRAFT},
            {"decoding_type": "Eagle3", "max_draft_len": 5, "speculative_model_dir": "/draft"},
        ),
        (
            {"type": "mtp", "num_nextn_predict_layers": 2},
            {"decoding_type": "MTP", "num_nextn_predict_layers": 2},
        ),
    ],
)
def test_each_kind_of_speculation_is_spelled_as_the_llm_api_has_it(
    speculative: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert config(speculative=speculative)["speculative_config"] == expected


def test_a_measurement_has_the_share_of_the_cache_elsewhere() -> None:
    cache = bench_config(recipe(), CATALOG.image("tensorrt-llm-1.2.1"))["kv_cache_config"]
    assert cache == {"enable_block_reuse": True, "dtype": "auto"}


@pytest.mark.parametrize("version", [(1, 1), (1, 2)])
def test_every_reader_of_yaml_reads_the_same(version: tuple[int, int]) -> None:
    written: dict[str, Any] = {
        "text": "on",
        "number": "1e3",
        "small": 1e-07,
        "whole": 3,
        "nothing": None,
        "truth": False,
        "list": [1, "two", 0.5],
        "inner": {"key": "a: b", "empty": {}},
    }
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    assert yaml.load(config_text(written)) == written
