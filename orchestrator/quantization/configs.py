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

W4A16_NVFP4 = "W4A16_NVFP4"


def hf_quant_config(exclude_modules: Sequence[str]) -> dict[str, Any]:
    """Return `hf_quant_config.json` for NVFP4 weights with 16-bit activations and an unquantized KV cache."""
    return {
        "producer": dict(PRODUCER),
        "quantization": {
            "quant_algo": W4A16_NVFP4,
            "kv_cache_quant_algo": None,
            "group_size": nvfp4.BLOCK,
            "exclude_modules": list(exclude_modules),
        },
    }


def quantization_config(exclude_modules: Sequence[str]) -> dict[str, Any]:
    """Return `quantization_config` of `config.json`, the same in words that compressed-tensors introduced.

    ModelOpt 0.47 writes `group_size` only inside `config_groups`; vLLM reads it from the top, where ModelOpt 0.48
    writes it too. Both places have it here.
    """
    return {
        "config_groups": {
            "group_0": {
                "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": nvfp4.BLOCK},
                "targets": ["Linear"],
            }
        },
        "ignore": list(exclude_modules),
        "quant_algo": W4A16_NVFP4,
        "group_size": nvfp4.BLOCK,
        "producer": dict(PRODUCER),
        "quant_method": "modelopt",
    }


def quantized_config(config: Mapping[str, Any], exclude_modules: Sequence[str]) -> dict[str, Any]:
    """Return a model's `config.json` with the quantization added and everything else as it was."""
    return {**copy.deepcopy(dict(config)), "quantization_config": quantization_config(exclude_modules)}
