"""Tells whether what ModelOpt exported is a quantized checkpoint of the model."""

from __future__ import annotations

import math
from pathlib import Path

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization import structure
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json


def no_export(source: Path, export: Path) -> str:
    """Tell why what ModelOpt exported is no quantized checkpoint of a model; nothing if it is one.

    Args:
        source: The model.
        export: What ModelOpt wrote.
    """
    original, theirs = Checkpoint.open(source), Checkpoint.open(export)
    stored = list(original.tensors.values())
    try:
        model = structure.read(read_json(source / "config.json"), stored)
    except (CheckpointError, ModelUnsupportedError):
        return ""
    table = original.tensors[f"{model.embedding}.weight"]
    alike = [one.name for one in theirs.tensors.values() if (one.dtype, one.shape) == (table.dtype, table.shape)]
    if alike and original.read(table.name).tobytes() not in [theirs.read(name).tobytes() for name in alike]:
        return "transformers does not load the weights that it saved"
    matrices = sum(
        math.prod(one.shape) for one in stored if len(one.shape) > 1 and model.layer_of(one.name) is not None
    )
    scaled = [name.removesuffix("_scale") for name in theirs.tensors if name.endswith("weight_scale")]
    weights = [theirs.tensors[name if name in theirs.tensors else name.removesuffix("_weight")] for name in scaled]
    quantized = sum(math.prod(one.shape) * (2 if one.dtype == "U8" else 1) for one in weights)
    if any(0 in one.shape for one in theirs.tensors.values()):
        return "it writes empty tensors"
    if 2 * quantized < matrices:
        return f"it quantizes {quantized / matrices:.0%} of the weights of the layers"
    return ""
