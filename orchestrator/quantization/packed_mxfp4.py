"""Decodes published weights of experts in MXFP4, as in gpt-oss, to the tensors that transformers makes.

The weights of all experts of a layer are published as `NAME_blocks` of shape [experts, out, in/32, 16], two E2M1
codes a byte, and `NAME_scales` of shape [experts, out, in/32]. transformers and ModelOpt use `NAME` of
shape [experts, in, out]: the transposed numbers. All of them are exact in BF16. One expert is in memory at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization.formats import mxfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.tensors import PackedTensor
from orchestrator.values import frozen

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.tensors import ReadRows, StoredTensor

_BLOCKS, _SCALES = "_blocks", "_scales"


@frozen(kw_only=True)
class Experts(PackedTensor):
    """The weights of all experts of a layer."""

    def decoded(self, read: ReadRows, first: int, last: int | None) -> NDArray[Any]:
        """See `PackedTensor`. A row is an expert."""
        last = self.shape[0] if last is None else last
        found = np.empty((last - first, *self.shape[1:]), ml_dtypes.bfloat16)
        for expert in range(first, last):
            codes, scales = (read(part, expert, expert + 1)[0] for part in (self.codes, self.scales))
            found[expert - first] = self._decoded(codes, scales, expert)
        return found

    def _decoded(self, codes: NDArray[np.uint8], scales: NDArray[np.uint8], expert: int) -> NDArray[Any]:
        weight = mxfp4.decode(Encoded(codes.reshape(len(codes), -1), scales))
        with np.errstate(over="ignore"):
            rounded = weight.astype(ml_dtypes.bfloat16)
        if not np.isfinite(rounded).all():
            message = f"{self.scales.file}: {self.scales.name}: expert {expert} holds what is no number in BF16"
            raise CheckpointError(message, hint="Download the checkpoint again.")
        return rounded.T


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
        experts, rows, count, half = blocks.shape
        shape, own = (experts, count * half * 2, rows), name.removesuffix(_BLOCKS)
        found[own] = Experts(own, "BF16", shape, blocks.file, blocks.begin, codes=blocks, scales=scales)
    if not found:
        message = f"{checkpoint.folder}: config.json: quantization_config says mxfp4; no tensor ends in {_BLOCKS}"
        raise CheckpointError(message)
    return found


def _check(blocks: StoredTensor, scales: StoredTensor) -> None:
    expected = ("U8", (*scales.shape, mxfp4.BLOCK // 2))
    if (blocks.dtype, blocks.shape) != expected or scales.dtype != "U8" or len(scales.shape) != 3:  # noqa: PLR2004 - [experts, out, in/32]
        message = f"{blocks.file}: found {blocks} beside {scales}; expected bytes of shapes [E, O, B, 16] and [E, O, B]"
        raise CheckpointError(message)
