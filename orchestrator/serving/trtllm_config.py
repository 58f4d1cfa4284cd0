"""Makes the configuration file of trtllm-serve and trtllm-bench: LLM API settings without a command-line option.

In older versions the file has priority over the command line, in newer ones the command line over the file. A setting
in both would depend on the version, so each is in one place, which the table below defines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from orchestrator.catalog.image import Image
from orchestrator.errors import RecipeInvalidError
from orchestrator.recipe.model import DraftTarget, Eagle3, KvCache, Mtp, Recipe, Speculative
from orchestrator.serving.server import DRAFT

Value: TypeAlias = "bool | int | float | str | Sequence[Value] | Mapping[str, Value] | None"

KEYS_WITH_A_FIELD: Mapping[str, str] = {
    "backend": "backend",
    "max_batch_size": "serve.max_batch_size",
    "max_num_tokens": "serve.max_num_tokens",
    "max_seq_len": "serve.max_seq_len",
    "model": "model",
    "reasoning_parser": "serve.reasoning_parser",
    "served_model_name": "serve.served_model_name",
    "speculative_config": "serve.speculative",
    "tensor_parallel_size": "serve.tensor_parallel_size",
    "tokenizer": "model",
    "tool_parser": "serve.tool_parser",
}
"""Keys that `serve.options` must not have, and the recipe's field to use instead."""

GUIDED = "guided_decoding_backend"


def llm_api_config(recipe: Recipe, image: Image, *, draft: str = DRAFT) -> dict[str, Value]:
    """Make the content of the configuration file.

    Args:
        recipe: The recipe.
        image: The image that serves. A key that its LLM API does not have is an error.
        draft: The draft model's folder, if the recipe has one.

    Raises:
        RecipeInvalidError: An option has its own field in the recipe, or the image does not have it.
    """
    options = dict(recipe.serve.options)
    for key in options:
        _check_key(key, recipe, image)
    extra_cache = options.pop("kv_cache_config", None)
    config: dict[str, Value] = {"kv_cache_config": _kv_cache(recipe, extra_cache)}
    if recipe.serve.speculative:
        config["speculative_config"] = _speculative(recipe.serve.speculative, draft)
    return config | options


def bundle_config(recipe: Recipe, image: Image, *, draft: str) -> dict[str, Value]:
    """Make the same for a bundle, with metrics and guided decoding if the image has them."""
    defaults: dict[str, Value] = {"return_perf_metrics": True}
    if recipe.backend == "pytorch":  # a TensorRT engine always has them
        defaults["enable_iter_perf_stats"] = True
    if recipe.serve.speculative is None:  # versions differ in whether both work together
        defaults[GUIDED] = "xgrammar"
    known = {name: value for name, value in defaults.items() if name in image.llm_api}
    return known | llm_api_config(recipe, image, draft=draft)


def bench_config(recipe: Recipe, image: Image, *, draft: str = DRAFT) -> dict[str, Value]:
    """Make the same for trtllm-bench, whose command line always has the share of the KV cache."""
    config = llm_api_config(recipe, image, draft=draft)
    cache = config["kv_cache_config"]
    assert isinstance(cache, Mapping)  # noqa: S101 - made so above
    return config | {"kv_cache_config": {k: v for k, v in cache.items() if k != "free_gpu_memory_fraction"}}


def config_text(config: Mapping[str, Value]) -> str:
    """Write a configuration as YAML that version 1.1 and 1.2 read alike.

    Strings are quoted, because not every reader takes `on`, `no` and `1e3` as strings. A float has a point for the same
    reason.
    """
    return "".join(_lines(config, ""))


def _lines(mapping: Mapping[str, Value], indent: str) -> list[str]:
    lines = []
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{key}:\n", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {_scalar(value)}\n")
    return lines


def _scalar(value: Value) -> str:
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)


def _check_key(key: str, recipe: Recipe, image: Image) -> None:
    where = f"{recipe.name}: serve.options.{key}"
    if key in KEYS_WITH_A_FIELD:
        message = f"{where} has its own field in the recipe"
        raise RecipeInvalidError(message, hint=f"set it by `{KEYS_WITH_A_FIELD[key]}`")
    if image.llm_api and key not in image.llm_api:
        message = f"{where} is no key of the LLM API of TensorRT-LLM {image.version}"
        raise RecipeInvalidError(message, hint=f"it knows: {', '.join(sorted(image.llm_api))}")


def _kv_cache(recipe: Recipe, extra: Value) -> dict[str, Value]:
    cache = recipe.serve.kv_cache
    config: dict[str, Value] = {
        "free_gpu_memory_fraction": cache.free_gpu_memory_fraction,
        "enable_block_reuse": cache.enable_block_reuse,
    }
    if recipe.backend == "pytorch":  # a TensorRT engine's cache has the type that it was built with
        config["dtype"] = cache.dtype
    if cache.max_tokens is not None:
        config["max_tokens"] = cache.max_tokens
    if extra is None:
        return config
    if not isinstance(extra, Mapping):
        message = f"{recipe.name}: serve.options.kv_cache_config: expected a mapping; found {extra!r}"
        raise RecipeInvalidError(message)
    for key in extra:
        if key in KvCache.model_fields:
            message = f"{recipe.name}: serve.options.kv_cache_config.{key} has its own field in the recipe"
            raise RecipeInvalidError(message, hint=f"set it by `serve.kv_cache.{key}`")
    return config | dict(extra)


def _speculative(speculative: Speculative, draft: str) -> dict[str, Value]:
    # `speculative_model_dir` is the older name, which newer versions accept as well
    match speculative:
        case DraftTarget(max_draft_len=length):
            return {"decoding_type": "DraftTarget", "max_draft_len": length, "speculative_model_dir": draft}
        case Eagle3(max_draft_len=length):
            return {"decoding_type": "Eagle3", "max_draft_len": length, "speculative_model_dir": draft}
        case Mtp(num_nextn_predict_layers=layers):
            return {"decoding_type": "MTP", "num_nextn_predict_layers": layers}
