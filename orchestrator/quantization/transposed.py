"""Finds matrices that a checkpoint stores as [inputs, outputs], and turns them.

The layers of GPT-2 multiply with transposed matrices (`Conv1D` of transformers). Their biases, which have a number for
each output, tell it. ModelOpt's export has these matrices as [outputs, inputs], like those of all other models.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.quantization.tensors import StoredTensor, TransposedMatrix

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from orchestrator.quantization.checkpoint import Checkpoint

_MATRIX = 2


def turned(checkpoint: Checkpoint, modules: Iterable[str]) -> Checkpoint:
    """Return a checkpoint in which transposed matrices are [outputs, inputs].

    A square matrix is stored as the others are. If biases contradict each other, nothing is turned.

    Args:
        checkpoint: The stored one.
        modules: The linear modules.
    """
    tensors = checkpoint.tensors
    biases = {f"{module}.weight": tensors.get(f"{module}.bias") for module in modules}
    sides = {name: (tensors[name].shape, bias.shape) for name, bias in biases.items() if bias is not None}
    oblong = {(bias == (rows,), bias == (columns,)) for (rows, columns), bias in sides.values() if rows != columns}
    if oblong != {(False, True)}:
        return checkpoint
    return replace(checkpoint, tensors={name: _turned(one) if name in sides else one for name, one in tensors.items()})


def turned_back(checkpoint: Checkpoint, quantized: Container[str]) -> Checkpoint:
    """Return a checkpoint in which transposed matrices that are not quantized are as they are stored."""

    def kept(name: str, tensor: StoredTensor) -> StoredTensor:
        if not isinstance(tensor, TransposedMatrix) or name.removesuffix(".weight") in quantized:
            return tensor
        return tensor.stored

    return replace(checkpoint, tensors={name: kept(name, tensor) for name, tensor in checkpoint.tensors.items()})


def _turned(stored: StoredTensor) -> TransposedMatrix:
    rows, columns = stored.shape
    return TransposedMatrix(stored.name, stored.dtype, (columns, rows), stored.file, stored.begin, stored=stored)
