"""Checkpoints of random weights, with some of them set on purpose."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from orchestrator.quantization.files import write_json
from orchestrator.quantization.tensors import DTYPES, TensorSpec
from orchestrator.quantization.writer import CheckpointWriter
from tests.support.architectures import expected_tensors


def write_model(
    folder: Path,
    config: Mapping[str, Any],
    changes: Mapping[str, NDArray[Any]] | None = None,
    types: Mapping[str, str] | None = None,
) -> Path:
    """Write a model of any known architecture.

    Args:
        folder: Where.
        config: What becomes its `config.json`.
        changes: Tensors by name.
        types: By shell pattern of names, what is stored in another type than the configuration declares.
    """
    numbers = np.random.default_rng(1)
    specs = [_stored_as(spec, types or {}) for spec in expected_tensors(config).values()]
    with CheckpointWriter(folder, [specs]) as writer:
        for spec in specs:
            drawn = (0.02 * numbers.standard_normal(spec.shape, np.float32)).astype(DTYPES[spec.dtype])
            writer.write(spec.name, (changes or {}).get(spec.name, drawn))
    write_json(folder / "config.json", config)
    return folder


def _stored_as(spec: TensorSpec, types: Mapping[str, str]) -> TensorSpec:
    found = [dtype for pattern, dtype in types.items() if fnmatch.fnmatchcase(spec.name, pattern)]
    return replace(spec, dtype=found[0]) if found else spec


GPT_OSS: Mapping[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "intermediate_size": 32,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "vocab_size": 320,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
}


def write_gpt_oss(folder: Path, changes: Mapping[str, NDArray[Any] | None] | None = None) -> Path:
    """Write a model as OpenAI publishes gpt-oss: experts in MXFP4, the rest in BF16; None leaves a tensor out."""
    numbers = np.random.default_rng(2)
    tensors: dict[str, NDArray[Any]] = {}
    for name, shape in _gpt_oss_shapes().items():
        if name.endswith("_blocks"):
            tensors[name] = numbers.integers(0, 256, shape, np.uint8)
        elif name.endswith("_scales"):
            tensors[name] = numbers.integers(100, 140, shape).astype(np.uint8)
        else:
            tensors[name] = (0.02 * numbers.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)
    return write_tensors(folder, {**tensors, **(changes or {})}, GPT_OSS)


FP8_BLOCKS: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "vocab_size": 320,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
}


def write_fp8_blocks(
    folder: Path, changes: Mapping[str, NDArray[Any] | None] | None = None, config: Mapping[str, Any] = FP8_BLOCKS
) -> Path:
    """Write a model as DeepSeek publishes it: linear modules in FP8 with block scales; None leaves a tensor out."""
    numbers = np.random.default_rng(4)
    tensors: dict[str, NDArray[Any]] = {}
    for name, spec in expected_tensors(FP8_BLOCKS).items():
        if "_proj" not in name:
            tensors[name] = (0.02 * numbers.standard_normal(spec.shape, np.float32)).astype(ml_dtypes.bfloat16)
            continue
        signs = numbers.choice(np.array([0, 128], np.uint8), spec.shape)
        codes = numbers.integers(0, 127, spec.shape, np.uint8) | signs  # all but what is no number
        tensors[name] = codes.view(ml_dtypes.float8_e4m3fn)
        blocks = tuple(-(-size // 128) for size in spec.shape)
        tensors[f"{name}_scale_inv"] = np.exp(numbers.uniform(-9, -6, blocks)).astype(np.float32)
    return write_tensors(folder, {**tensors, **(changes or {})}, config)


def write_tensors(folder: Path, tensors: Mapping[str, NDArray[Any] | None], config: Mapping[str, Any]) -> Path:
    """Write tensors and a configuration; None leaves a tensor out."""
    kept = {name: array for name, array in tensors.items() if array is not None}
    names = {dtype: key for key, dtype in DTYPES.items()}
    with CheckpointWriter(folder, [[TensorSpec(name, names[a.dtype], a.shape) for name, a in kept.items()]]) as writer:
        for name, array in kept.items():
            writer.write(name, array)
    write_json(folder / "config.json", config)
    return folder


def _gpt_oss_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (64,)}
    shapes |= {"model.embed_tokens.weight": (320, 64), "lm_head.weight": (320, 64)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name, rows in {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64}.items():
            shapes |= {f"{prefix}self_attn.{name}.weight": (rows, 64), f"{prefix}self_attn.{name}.bias": (rows,)}
        shapes |= {f"{prefix}{norm}.weight": (64,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{prefix}self_attn.sinks": (4,)}
        shapes |= {f"{prefix}mlp.router.weight": (3, 64), f"{prefix}mlp.router.bias": (3,)}
        for name, (rows, columns) in {"gate_up_proj": (64, 64), "down_proj": (64, 32)}.items():
            shapes[f"{prefix}mlp.experts.{name}_blocks"] = (3, rows, columns // 32, 16)
            shapes[f"{prefix}mlp.experts.{name}_scales"] = (3, rows, columns // 32)
            shapes[f"{prefix}mlp.experts.{name}_bias"] = (3, rows)
    return shapes
