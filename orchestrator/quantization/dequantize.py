"""Converts a quantized checkpoint to BF16, the input of quantizing to another format.

Supported are experts in MXFP4, as in gpt-oss (`packed_mxfp4`), and FP8 with block scales, as in DeepSeek-V3
(`packed_fp8`). The tensors are those that transformers makes. A part of one weight is in memory at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress, silence
from orchestrator.quantization import configs, packed_fp8, packed_mxfp4
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.cost import Cost
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.onepass import CHUNK_BYTES, require_finite
from orchestrator.quantization.plan import copy_companions
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from orchestrator.events import Observer

NUMBER_FORMAT = "bf16"
_METHODS = ("mxfp4", "fp8")
"""Supported values of `quantization_config.quant_method`."""


class Packed(Protocol):
    """A weight that is stored in parts."""

    @property
    def spec(self) -> TensorSpec:
        """The decoded tensor."""

    def write(self, checkpoint: Checkpoint, writer: CheckpointWriter) -> None:
        """Decode it, a piece at a time.

        Raises:
            CheckpointError: A value has no number in BF16.
        """


def dequantize_checkpoint(
    source: Path, output: Path, *, observer: Observer = silence, shard_bytes: int = SHARD_BYTES
) -> Cost:
    """Convert a checkpoint in MXFP4, or in FP8 with block scales, to BF16.

    Args:
        source: The folder of the checkpoint.
        output: The folder to write to. It is created if it is missing.
        observer: Gets the progress in tensors.
        shard_bytes: The largest weight file, except for a single larger tensor.

    Returns:
        The cost by phases: `decode`, with reading, and `write`.

    Raises:
        CheckpointError: The source cannot be read, is in another format, lacks a part of a weight, or has values that
        not numbers.
    """
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    config = read_json(source / configs.CONFIG)
    checkpoint = Checkpoint.open(source)
    packed, copied = _sorted_out(checkpoint, config)
    specs = {name: TensorSpec(name, stored.dtype, stored.shape) for name, stored in checkpoint.tensors.items()}
    units = [[packed[name].spec] if name in packed else [specs[name]] for name in sorted([*packed, *copied])]
    started, cost = time.monotonic(), Cost()
    with CheckpointWriter(output, plan_shards(units, shard_bytes)) as writer:
        for position, (unit,) in enumerate(units, start=1):
            if unit.name in packed:
                packed[unit.name].write(checkpoint, writer)
            else:
                for first, rows in checkpoint.rows(unit.name, CHUNK_BYTES):
                    require_finite(rows, checkpoint.tensors[unit.name], first)
                    writer.write(unit.name, rows if unit.shape else rows.reshape(()), first)
            observer(Progress(position, len(units), "tensors", unit.name))
    cost.bytes_read, cost.bytes_written = sum(tensor.size for tensor in checkpoint.tensors.values()), writer.size
    cost.add("decode", time.monotonic() - started - writer.seconds)
    cost.add("write", writer.seconds)
    copy_companions(source, output)
    write_json(output / configs.CONFIG, _plain(config), allow_nan=True)
    return cost


def _sorted_out(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Mapping[str, Packed], list[str]]:
    """Separate tensors that are decoded, by name, from those that are copied."""
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
    if method == "mxfp4":
        experts = packed_mxfp4.packed(checkpoint)
        return experts, [name for name in checkpoint.tensors if not packed_mxfp4.parts(name)]
    blocks = packed_fp8.packed(checkpoint, quantization)
    return blocks, [name for name in checkpoint.tensors if name not in blocks and not packed_fp8.parts(name)]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the same model in BF16. Every version of transformers reads its type field."""
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    return kept if "dtype" in kept else {**kept, "torch_dtype": "bfloat16"}
