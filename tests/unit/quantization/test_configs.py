"""What a quantized checkpoint declares of itself, for each algorithm."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.quantization.configs import hf_quant_config, quantization_config

_FLOAT = {"dynamic": False, "type": "float"}
_NVFP4 = {**_FLOAT, "num_bits": 4, "group_size": 16}
_FP8 = {**_FLOAT, "num_bits": 8}


@pytest.mark.parametrize(
    ("algorithm", "weights", "activations", "grouped"),
    [
        ("NVFP4", _NVFP4, _NVFP4, {"group_size": 16}),
        ("W4A16_NVFP4", _NVFP4, None, {"group_size": 16}),
        ("FP8", _FP8, _FP8, {}),
    ],
)
def test_both_files_declare_the_numbers_of_an_algorithm(
    algorithm: str, weights: dict[str, Any], activations: dict[str, Any] | None, grouped: dict[str, int]
) -> None:
    quantization = hf_quant_config(algorithm, ["lm_head"])["quantization"]
    assert quantization == {
        "quant_algo": algorithm,
        "kv_cache_quant_algo": None,
        **grouped,
        "exclude_modules": ["lm_head"],
    }
    config = quantization_config(algorithm, ["lm_head"])
    [group] = config["config_groups"].values()
    assert group["weights"] == weights
    assert group.get("input_activations") == activations
    assert (config["quant_algo"], config["ignore"], config.get("group_size")) == (
        algorithm,
        ["lm_head"],
        grouped.get("group_size"),
    )


def test_a_quantized_cache_is_declared() -> None:
    assert hf_quant_config("FP8", [], "fp8")["quantization"]["kv_cache_quant_algo"] == "FP8"
