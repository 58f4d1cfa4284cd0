"""Write a checkpoint whose experts are published in MXFP4, as gpt-oss is, in BF16: the tensors that transformers makes.

What is published of the weights of all experts of a layer is `NAME_blocks` of shape [experts, out, in/32, 16], two E2M1
codes a byte, and `NAME_scales` of shape [experts, out, in/32]. transformers, and ModelOpt with it, work with `NAME` of
shape [experts, in, out]: the numbers, turned. All of them are exact in BF16. One expert is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.events import Progress, silence
from orchestrator.quantization import configs
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import mxfp4
from orchestrator.quantization.onepass import CHUNK_BYTES
from orchestrator.quantization.plan import copy_companions
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.writer import SHARD_BYTES, CheckpointWriter, plan_shards

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.tensors import StoredTensor

NUMBER_FORMAT = "bf16"
_BLOCKS, _SCALES = "_blocks", "_scales"


def dequantize_checkpoint(
    source: Path, output: Path, *, observer: Observer = silence, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a checkpoint in MXFP4 as one in BF16.

    Args:
        source: The folder of the checkpoint.
        output: The folder to write to; made where it is missing.
        observer: Is told of progress in tensors.
        shard_bytes: The largest weights file, other than for a single larger tensor.

    Raises:
        CheckpointError: The source cannot be read, is not in MXFP4, lacks a part of a weight, or holds what is no
            number.
    """
    if output.resolve() == source.resolve():
        message = f"{output}: the output folder is the source folder; expected another one"
        raise CheckpointError(message)
    config = read_json(source / configs.CONFIG)
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method != "mxfp4":
        message = f"{source}: config.json: quantization_config.quant_method: found {method!r}, expected 'mxfp4'"
        raise CheckpointError(message, hint="Only checkpoints in MXFP4 can be written in BF16.")
    checkpoint = Checkpoint.open(source)
    packed = _packed(checkpoint)
    copied = [name for name in checkpoint.tensors if not name.endswith((_BLOCKS, _SCALES))]
    specs = {name: TensorSpec(name, stored.dtype, stored.shape) for name, stored in checkpoint.tensors.items()}
    units = [[packed[name].spec] if name in packed else [specs[name]] for name in sorted([*packed, *copied])]
    with CheckpointWriter(output, plan_shards(units, shard_bytes)) as writer:
        for position, (unit,) in enumerate(units, start=1):
            if unit.name in packed:
                packed[unit.name].write(checkpoint, writer)
            else:
                for first, rows in checkpoint.rows(unit.name, CHUNK_BYTES):
                    writer.write(unit.name, rows if unit.shape else rows.reshape(()), first)
            observer(Progress(position, len(units), "tensors", unit.name))
    copy_companions(source, output)
    write_json(output / configs.CONFIG, _plain(config))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the same model in BF16, under the name of the type that every transformers reads."""
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    return kept if "dtype" in kept else {**kept, "torch_dtype": "bfloat16"}


@dataclass(frozen=True)
class _Packed:
    """The weights of all experts of a layer."""

    blocks: StoredTensor
    scales: StoredTensor

    @property
    def spec(self) -> TensorSpec:
        """What they become."""
        experts, rows, blocks, half = self.blocks.shape
        return TensorSpec(self.blocks.name.removesuffix(_BLOCKS), "BF16", (experts, blocks * half * 2, rows))

    def write(self, checkpoint: Checkpoint, writer: CheckpointWriter) -> None:
        """Decode one expert after the other."""
        for expert in range(self.blocks.shape[0]):
            codes = checkpoint.read(self.blocks.name, expert, expert + 1)
            scales = checkpoint.read(self.scales.name, expert, expert + 1)
            writer.write(self.spec.name, self._decoded(codes[0], scales[0], expert)[np.newaxis], expert)

    def _decoded(self, codes: NDArray[np.uint8], scales: NDArray[np.uint8], expert: int) -> NDArray[Any]:
        weight = mxfp4.decode(mxfp4.Encoded(codes.reshape(len(codes), -1), scales))
        with np.errstate(over="ignore"):
            rounded = weight.astype(ml_dtypes.bfloat16)
        if not np.isfinite(rounded).all():
            message = f"{self.scales.file}: {self.scales.name}: expert {expert} holds what is no number in BF16"
            raise CheckpointError(message, hint="Download the checkpoint again.")
        return np.ascontiguousarray(rounded.T)


def _packed(checkpoint: Checkpoint) -> dict[str, _Packed]:
    """Pair blocks with scales, by the name of what they become."""
    found = {}
    for name, blocks in checkpoint.tensors.items():
        if name.endswith(_SCALES) and f"{name.removesuffix(_SCALES)}{_BLOCKS}" not in checkpoint.tensors:
            message = f"{blocks.file}: {name} has no {_BLOCKS} beside it"
            raise CheckpointError(message)
        if not name.endswith(_BLOCKS):
            continue
        scales = checkpoint.tensors.get(f"{name.removesuffix(_BLOCKS)}{_SCALES}")
        if scales is None:
            message = f"{blocks.file}: {name} has no {_SCALES} beside it"
            raise CheckpointError(message)
        _check(blocks, scales)
        found[name.removesuffix(_BLOCKS)] = _Packed(blocks, scales)
    if not found:
        message = f"{checkpoint.folder}: config.json says mxfp4; found no tensor that ends in {_BLOCKS}"
        raise CheckpointError(message)
    return found


def _check(blocks: StoredTensor, scales: StoredTensor) -> None:
    expected = ("U8", (*scales.shape, mxfp4.BLOCK // 2))
    if (blocks.dtype, blocks.shape) != expected or scales.dtype != "U8" or len(scales.shape) != 3:  # noqa: PLR2004 - [experts, out, in/32]
        message = f"{blocks.file}: found {blocks} beside {scales}; expected bytes of shapes [E, O, B, 16] and [E, O, B]"
        raise CheckpointError(message)
