"""Decodes published weights of experts in MXFP4, as in gpt-oss, to the tensors that transformers makes.

The weights of all experts of a layer are published as `NAME_blocks` of shape [experts, out, in/32, 16], two E2M1
codes a byte, and `NAME_scales` of shape [experts, out, in/32]. transformers and ModelOpt use `NAME` of
shape [experts, in, out]: the transposed numbers. All of them are exact in BF16. One expert is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization.formats import mxfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.tensors import TensorSpec

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.tensors import StoredTensor
    from orchestrator.quantization.writer import CheckpointWriter

_BLOCKS, _SCALES = "_blocks", "_scales"


@dataclass(frozen=True)
class Experts:
    """The weights of all experts of a layer."""

    blocks: StoredTensor
    scales: StoredTensor

    @property
    def spec(self) -> TensorSpec:
        """The decoded tensor."""
        experts, rows, blocks, half = self.blocks.shape
        return TensorSpec(self.blocks.name.removesuffix(_BLOCKS), "BF16", (experts, blocks * half * 2, rows))

    def write(self, checkpoint: Checkpoint, writer: CheckpointWriter) -> None:
        """Decode the experts in order."""
        for expert in range(self.blocks.shape[0]):
            codes = checkpoint.read(self.blocks.name, expert, expert + 1)
            scales = checkpoint.read(self.scales.name, expert, expert + 1)
            writer.write(self.spec.name, self._decoded(codes[0], scales[0], expert)[np.newaxis], expert)

    def _decoded(self, codes: NDArray[np.uint8], scales: NDArray[np.uint8], expert: int) -> NDArray[Any]:
        weight = mxfp4.decode(Encoded(codes.reshape(len(codes), -1), scales))
        with np.errstate(over="ignore"):
            rounded = weight.astype(ml_dtypes.bfloat16)
        if not np.isfinite(rounded).all():
            message = f"{self.scales.file}: {self.scales.name}: expert {expert} holds what is no number in BF16"
            raise CheckpointError(message, hint="Download the checkpoint again.")
        return np.ascontiguousarray(rounded.T)


def packed(checkpoint: Checkpoint) -> dict[str, Experts]:
    """Pair blocks with scales, by the name of the decoded tensor.

    Raises:
        CheckpointError: There are none, one is missing, or they do not fit each other.
    """
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
        found[name.removesuffix(_BLOCKS)] = Experts(blocks, scales)
    if not found:
        message = f"{checkpoint.folder}: config.json says mxfp4; found no tensor that ends in {_BLOCKS}"
        raise CheckpointError(message)
    return found


def parts(name: str) -> bool:
    """Tell whether a tensor is a part of another one."""
    return name.endswith((_BLOCKS, _SCALES))


def _check(blocks: StoredTensor, scales: StoredTensor) -> None:
    expected = ("U8", (*scales.shape, mxfp4.BLOCK // 2))
    if (blocks.dtype, blocks.shape) != expected or scales.dtype != "U8" or len(scales.shape) != 3:  # noqa: PLR2004 - [experts, out, in/32]
        message = f"{blocks.file}: found {blocks} beside {scales}; expected bytes of shapes [E, O, B, 16] and [E, O, B]"
        raise CheckpointError(message)
