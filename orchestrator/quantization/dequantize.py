"""Writes a checkpoint in MXFP4, or in FP8 with block scales, in BF16, see `packed`.

A part of one weight is in memory at a time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress, silence
from orchestrator.quantization import configs, packed
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.cost import Cost
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.onepass import CHUNK_BYTES, require_finite
from orchestrator.quantization.plan import copy_companions
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.events import Observer

NUMBER_FORMAT = "bf16"


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
    checkpoint, config = packed.unpacked(Checkpoint.open(source), read_json(source / configs.CONFIG))
    stored = checkpoint.tensors
    units = [[TensorSpec(name, stored[name].dtype, stored[name].shape)] for name in sorted(stored)]
    started, cost = time.monotonic(), Cost()
    with CheckpointWriter(output, plan_shards(units, shard_bytes)) as writer:
        for position, (unit,) in enumerate(units, start=1):
            for first, rows in checkpoint.rows(unit.name, CHUNK_BYTES):
                require_finite(rows, stored[unit.name], first)
                writer.write(unit.name, rows if unit.shape else rows.reshape(()), first)
            observer(Progress(position, len(units), "tensors", unit.name))
    cost.bytes_read, cost.bytes_written = sum(tensor.read_size for tensor in stored.values()), writer.size
    cost.add("decode", time.monotonic() - started - writer.seconds)
    cost.add("write", writer.seconds)
    copy_companions(source, output)
    write_json(output / configs.CONFIG, config, allow_nan=True)
    return cost
