"""The two files that tell engines how a checkpoint is quantized.

TensorRT-LLM reads `hf_quant_config.json`; vLLM, SGLang and transformers read `quantization_config` in `config.json`.
Both say the same in different words, and both are written.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from orchestrator.quantization.formats import nvfp4

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONFIG = "config.json"
QUANT_CONFIG = "hf_quant_config.json"

# The dialect, not the author: vLLM recognizes `hf_quant_config.json` by the producer's name, so it must be this one,
# and the version says whose definition of the layout the bytes follow. Who ran the quantizer, in which version and on
# what, belongs in a bundle's provenance.
PRODUCER = {"name": "modelopt", "version": "0.47.0"}

KV_CACHE_FORMATS = ("none", "fp8")
_BITS = {"W4A16_NVFP4": 4, "NVFP4": 4, "FP8": 8}
_GROUP_SIZE = {"W4A16_NVFP4": nvfp4.BLOCK, "NVFP4": nvfp4.BLOCK}


def hf_quant_config(algorithm: str, exclude_modules: Sequence[str], kv_cache: str = "none") -> dict[str, Any]:
    """Return `hf_quant_config.json`.

    Args:
        algorithm: One of `layout.ALGORITHMS`.
        exclude_modules: Patterns of modules that stay as they are.
        kv_cache: One of `KV_CACHE_FORMATS`.
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
    """Return `quantization_config` of `config.json`, the same in words that compressed-tensors introduced.

    ModelOpt 0.47 writes `group_size` only inside `config_groups`; vLLM reads it from the top, where ModelOpt 0.48
    writes it too. Both places have it here.
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


def quantized_config(
    config: Mapping[str, Any], algorithm: str, exclude_modules: Sequence[str], kv_cache: str = "none"
) -> dict[str, Any]:
    """Return a model's `config.json` with the quantization added and everything else as it was."""
    added = quantization_config(algorithm, exclude_modules, kv_cache)
    return {**copy.deepcopy(dict(config)), "quantization_config": added}
