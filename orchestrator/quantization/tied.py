"""Compares a stored head with the embedding that the configuration ties it to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization import structure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.quantization.checkpoint import Checkpoint

_CHUNK_BYTES = 4_000_000


def has_own_head(checkpoint: Checkpoint, config: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint stores another head than the embedding although its configuration ties both.

    transformers 5 and ModelOpt use the stored head then. Others replace it with the embedding.

    Raises:
        CheckpointError: The tensors are not those of a model.
    """
    head = next(filter(structure.is_head, checkpoint.tensors), None)
    if head is None:
        return False
    model = structure.read(config, checkpoint.tensors.values())
    if not model.tied:
        return False
    embedding = f"{model.embedding}.weight"
    return checkpoint.tensors[head].shape != checkpoint.tensors[embedding].shape or any(
        not np.array_equal(rows, checkpoint.read(embedding, first, first + len(rows)))
        for first, rows in checkpoint.rows(head, _CHUNK_BYTES)
    )
