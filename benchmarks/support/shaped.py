"""Models in the shape of a real one, of any size, made at the speed of the disk."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.payloads import generate
from orchestrator.quantization.configs import CONFIG
from orchestrator.quantization.files import write_json
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.tensors import TensorSpec

_DRAWN = (1 << 25) + 7
"""Numbers that are drawn; each tensor repeats them from another place on."""
_AT_ONCE = 1 << 22


def llama(
    folder: Path, *, layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, vocabulary: int
) -> int:
    """Write a Llama of BF16 weights from a seed, and return the bytes of its tensors."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }
    specs = generate.llama_tensors(config)
    drawn = (np.random.default_rng(0).standard_normal(_DRAWN, np.float32) * np.float32(0.02)).astype(ml_dtypes.bfloat16)
    with CheckpointWriter(folder, plan_shards([[spec] for spec in specs], SHARD_BYTES)) as writer:
        for spec in specs:
            for first, rows in _rows(spec, drawn):
                writer.write(spec.name, rows, first)
    write_json(folder / CONFIG, config)
    return sum(spec.size for spec in specs)


def _rows(spec: TensorSpec, drawn: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    if len(spec.shape) == 1:  # the gain of a normalization
        yield 0, np.ones(spec.shape, ml_dtypes.bfloat16)
        return
    rows, columns = spec.shape
    step = max(1, _AT_ONCE // columns)
    place = zlib.crc32(spec.name.encode()) % _DRAWN
    for first in range(0, rows, step):
        count = min(step, rows - first)
        numbers = _from(drawn, place, count * columns)
        place = (place + count * columns) % _DRAWN
        yield first, numbers.reshape(count, columns)


def _from(drawn: NDArray[Any], place: int, count: int) -> NDArray[Any]:
    """Take numbers from a place on, and go on at the start."""
    end = place + count
    return drawn[place:end] if end <= len(drawn) else np.concatenate([drawn[place:], drawn[: end - len(drawn)]])
