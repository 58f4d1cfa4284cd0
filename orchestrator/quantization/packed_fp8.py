"""Decodes published weights in FP8 with block scales: DeepSeek-V3 and R1, Qwen3's FP8 and others.

A weight in E4M3 has its scales beside it, see `formats.fp8_blocks`: `MODULE.weight_scale_inv`, `MODULE.scale`
(DeepSeek-V4) or `MODULE.qscale_weight` (Mistral), the names that transformers' own reader
(`quantizer_finegrained_fp8.py`) takes. Some rows are in memory at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.quantization.formats import fp8_blocks
from orchestrator.quantization.tensors import PackedTensor
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.tensors import ReadRows, StoredTensor

_SCALE = "_scale_inv"
_OTHER_SCALES = (".scale", ".qscale_weight")
"""In place of `.weight` and `_SCALE`, by those who do not write `_SCALE`."""
_SCALE_TYPES = ("F32", "BF16", "F8_E8M0")
_CODES = 500_000
"""Codes that are decoded at a time. In FP32 a number takes four bytes, and so does its factor."""


@frozen(kw_only=True)
class Blocks(PackedTensor):
    """One weight."""

    block: tuple[int, int]
    """Rows and columns that share a scale."""

    def decoded(self, read: ReadRows, first: int, last: int | None) -> NDArray[Any]:
        """See `PackedTensor`."""
        last = self.shape[0] if last is None else last
        scales = read(self.scales, 0, None).astype(np.float32)
        rows = np.empty((last - first, self.shape[1]), ml_dtypes.bfloat16)
        step = max(1, _CODES // max(1, self.shape[1]))
        for begin in range(first, last, step):
            end = min(begin + step, last)
            rows[begin - first : end - first] = fp8_blocks.decode(
                read(self.codes, begin, end), scales, self.block, begin
            )
        if not np.isfinite(rows).all():
            message = f"{self.file}: {self.name} holds what is no number in BF16"
            raise CheckpointError(message, hint="Download the checkpoint again.")
        return rows


def packed(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> dict[str, Blocks]:
    """Pair weights with scales, by the name of the decoded tensor.

    Args:
        checkpoint: The source.
        quantization: `quantization_config` of its `config.json`.

    Raises:
        CheckpointError: It is another kind of FP8, a weight or its scales are missing, or do not fit each other.
    """
    block = _block(checkpoint, quantization)
    found = {}
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) not in checkpoint.tensors:
            message = f"{tensor.file}: {name} has no {name.removesuffix(_SCALE)} beside it"
            raise CheckpointError(message)
        scales = _scales_of(name, checkpoint.tensors)
        if _is_packed_in_four_bits(tensor, scales):
            message = f"{tensor.file}: found {tensor} with {scales}: two numbers of four bits in a byte"
            raise CheckpointError(message, hint="Serve it as it is published: method none.")
        if name.endswith((_SCALE, *_OTHER_SCALES)) or not tensor.dtype.startswith("F8_"):
            continue
        if scales is None:
            message = f"{tensor.file}: {name} has no {name}{_SCALE} beside it"
            raise CheckpointError(message)
        _check(tensor, scales, block)
        found[name] = Blocks(
            name, "BF16", tensor.shape, tensor.file, tensor.begin, codes=tensor, scales=scales, block=block
        )
    if not found:
        message = f"{checkpoint.folder}: config.json: quantization_config says fp8; found no tensor in FP8"
        raise CheckpointError(message)
    return found


def _scales_of(name: str, tensors: Mapping[str, StoredTensor]) -> StoredTensor | None:
    module = name.removesuffix(".weight")
    others = () if module == name else (f"{module}{suffix}" for suffix in _OTHER_SCALES)
    return next((tensors[one] for one in (f"{name}{_SCALE}", *others) if one in tensors), None)


def _is_packed_in_four_bits(codes: StoredTensor, scales: StoredTensor | None) -> bool:
    """Tell whether experts are in MXFP4, as DeepSeek-V4 publishes them beside other modules in FP8."""
    return codes.dtype in ("I8", "U8") and scales is not None and scales.dtype == "F8_E8M0"


def _block(checkpoint: Checkpoint, quantization: Mapping[str, Any]) -> tuple[int, int]:
    match quantization.get("weight_block_size"):
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return rows, columns
        case found:
            message = (
                f"{checkpoint.folder}: config.json: quantization_config.weight_block_size: found {found!r}, expected"
                " the rows and columns that share a scale, such as [128, 128]"
            )
            raise CheckpointError(
                message, hint="FP8 with one scale for a whole tensor is served as it is: method none."
            )


def _check(codes: StoredTensor, scales: StoredTensor, block: tuple[int, int]) -> None:
    shape = tuple(-(-size // side) for size, side in zip(codes.shape, block, strict=False))
    if codes.dtype == "F8_E4M3" and len(codes.shape) == len(block) and scales.dtype in _SCALE_TYPES:
        if scales.shape == shape:
            return
        message = f"{scales.file}: found {scales} for {codes}, expected shape {list(shape)}"
        raise CheckpointError(message)
    message = (
        f"{codes.file}: found {codes} with {scales}; expected a matrix in F8_E4M3 with scales in F32, BF16 or F8_E8M0"
    )
    raise CheckpointError(message)
