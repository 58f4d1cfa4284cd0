"""Writes the two configuration files that describe a checkpoint's quantization.

TensorRT-LLM reads `hf_quant_config.json`; vLLM, SGLang and transformers read `quantization_config` in `config.json`.
Both have the same content in different forms, and both are written.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from orchestrator.quantization.formats import nvfp4

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIG = "config.json"
QUANT_CONFIG = "hf_quant_config.json"

# The dialect, not the author: vLLM recognizes `hf_quant_config.json` by the producer's name, so it must be this one.
# The version names the definition of the layout. The quantizer, its version and its source
# belong in a bundle's provenance.
PRODUCER = {"name": "modelopt", "version": "0.47.0"}

MIXED = "MIXED_PRECISION"
"""The value of `quant_algo` if modules differ."""

_BITS = {"W4A16_NVFP4": 4, "NVFP4": 4, "FP8": 8}
_GROUP_SIZE = {"W4A16_NVFP4": nvfp4.BLOCK, "NVFP4": nvfp4.BLOCK}


def hf_quant_config(algorithm: str, exclude_modules: Sequence[str], kv_cache: str = "none") -> dict[str, Any]:
    """Return `hf_quant_config.json`.

    Args:
        algorithm: One of `layout.ALGORITHMS`.
        exclude_modules: Patterns of modules that are not quantized.
        kv_cache: One of `format_names.KV_CACHE_FORMATS`.
    """
    grouped = {"group_size": _GROUP_SIZE[algorithm]} if algorithm in _GROUP_SIZE else {}
    return {
        "producer": dict(PRODUCER),
        "quantization": {
            "quant_algo": algorithm,
            "kv_cache_quant_algo": None if kv_cache == "none" else kv_cache.upper(),
            **grouped,
            "exclude_modules": list(exclude_modules),
        },
    }


def quantization_config(algorithm: str, exclude_modules: Sequence[str], kv_cache: str = "none") -> dict[str, Any]:
    """Return `quantization_config` of `config.json`, the same in the form of compressed-tensors.

    ModelOpt 0.47 writes `group_size` only inside `config_groups`. vLLM reads it from the top level, where ModelOpt 0.48
    writes it too. Here it is in both places.
    """
    grouped = {"group_size": _GROUP_SIZE[algorithm]} if algorithm in _GROUP_SIZE else {}
    numbers = {"dynamic": False, "num_bits": _BITS[algorithm], "type": "float", **grouped}
    activations = {} if algorithm.startswith("W4A16") else {"input_activations": dict(numbers)}
    cache = {} if kv_cache == "none" else {"kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}}
    return {
        "config_groups": {"group_0": {**activations, "weights": numbers, "targets": ["Linear"]}},
        "ignore": list(exclude_modules),
        "quant_algo": algorithm,
        **grouped,
        **cache,
        "producer": dict(PRODUCER),
        "quant_method": "modelopt",
    }


def mixed(algorithms: Mapping[str, str], kv_cache: str = "none") -> dict[str, Any]:
    """Return `hf_quant_config.json` of a checkpoint with several formats.

    Modules that are not listed are not quantized. ModelOpt then writes no `exclude_modules`.

    Args:
        algorithms: By module, in the order of the model.
        kv_cache: One of `format_names.KV_CACHE_FORMATS`.
    """
    return {
        "producer": dict(PRODUCER),
        "quantization": {
            "quant_algo": MIXED,
            "kv_cache_quant_algo": None if kv_cache == "none" else kv_cache.upper(),
            "quantized_layers": {module: _layer(algorithm) for module, algorithm in algorithms.items()},
        },
    }


def mixed_quantization_config(algorithms: Mapping[str, str], kv_cache: str = "none") -> dict[str, Any]:
    """Return `quantization_config` of `config.json` for several formats: a group for each, in order of appearance."""
    groups = {}
    for number, algorithm in enumerate(dict.fromkeys(algorithms.values())):
        one = quantization_config(algorithm, (), kv_cache)["config_groups"]["group_0"]
        targets = sorted(module for module, own in algorithms.items() if own == algorithm)
        groups[f"group_{number}"] = {**one, "targets": targets}
    return {
        **quantization_config(next(iter(algorithms.values())), (), kv_cache),
        "config_groups": groups,
        "quantized_layers": {module: _layer(algorithm) for module, algorithm in algorithms.items()},
        "quant_algo": MIXED,
    }


def _layer(algorithm: str) -> dict[str, Any]:
    grouped = {"group_size": _GROUP_SIZE[algorithm]} if algorithm in _GROUP_SIZE else {}
    return {"quant_algo": algorithm, **grouped}


def quantized_config(config: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's `config.json` with `quantization_config` added and everything else unchanged."""
    return {**copy.deepcopy(dict(config)), "quantization_config": dict(added)}
