"""Reads a checkpoint that is published in MXFP4, or in FP8 with block scales, as the BF16 that it stands for.

Experts in MXFP4, as in gpt-oss (`packed_mxfp4`), and FP8 with block scales, as in DeepSeek-V3 (`packed_fp8`), are
decoded when they are read. The tensors are those that transformers makes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError
from orchestrator.quantization import configs, packed_fp8, packed_mxfp4
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.tensors import natural

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from orchestrator.quantization.tensors import PackedTensor

_METHODS = ("mxfp4", "fp8")
"""Supported values of `quantization_config.quant_method`."""


def opened(folder: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """Open a checkpoint; one that is published in MXFP4 or with block scales in BF16. Return it and its `config.json`.

    Raises:
        CheckpointError: It cannot be read, or lacks a part of a weight.
    """
    config, checkpoint = read_json(folder / configs.CONFIG), Checkpoint.open(folder)
    return unpacked(checkpoint, config) if _is_packed(config.get("quantization_config")) else (checkpoint, config)


def unpacked(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Checkpoint, dict[str, Any]]:
    """Return a packed checkpoint in BF16, and its configuration without the quantization.

    Raises:
        CheckpointError: It is in another format, or lacks a part of a weight.
    """
    where = f"{checkpoint.folder}: config.json"
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method not in _METHODS or not isinstance(quantization, dict):
        message = f"{where}: quantization_config.quant_method: found {method!r}, expected {' or '.join(_METHODS)}"
        hint = "Only checkpoints in MXFP4, or in FP8 with block scales, can be written in BF16."
        raise CheckpointError(message, hint=hint)
    declared = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    if declared != "bfloat16":
        message = f"{where}: dtype: found {declared!r}, expected bfloat16, which is what is written"
        raise CheckpointError(message)
    weights: Mapping[str, PackedTensor] = (
        packed_mxfp4.packed(checkpoint) if method == "mxfp4" else packed_fp8.packed(checkpoint, quantization)
    )
    parts = {part.name for weight in weights.values() for part in (weight.codes, weight.scales)}
    plain = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in parts}
    tensors = {**plain, **weights}
    return replace(checkpoint, tensors={name: tensors[name] for name in sorted(tensors, key=natural)}), _plain(config)


def _is_packed(quantization: object) -> bool:
    if not isinstance(quantization, dict):
        return False
    method = quantization.get("quant_method")
    return method == "mxfp4" or (method == "fp8" and quantization.get("weight_block_size") is not None)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the same model in BF16. Every version of transformers reads its type field."""
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    return kept if "dtype" in kept else {**kept, "torch_dtype": "bfloat16"}
