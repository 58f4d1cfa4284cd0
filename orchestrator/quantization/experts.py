"""Splits a tensor that holds a matrix for each expert of a layer into these matrices, as ModelOpt's export does.

Some checkpoints have `experts.gate_up_proj` and `experts.down_proj` with three dimensions. Each expert's gate, up and
down projection becomes a tensor of its own, `experts.0.gate_proj.weight`, of which only the position in the file is
calculated. Shapes tell whether a matrix is stored as [outputs, inputs] or transposed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.quantization.structure import text_config
from orchestrator.quantization.tensors import ExpertMatrix, natural

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.quantization.checkpoint import Checkpoint
    from orchestrator.quantization.structure import Config, Structure
    from orchestrator.quantization.tensors import StoredTensor

_PROJECTIONS = re.compile(
    r"(?P<experts>.*\.experts)\.(?P<gated>gate_up_proj|down_proj)(\.weight)?"
    r"|(?P<block>.*\.block_sparse_moe)\.(?P<linear>input_linear|output_linear)\.weight"
)
"""Names of tensors that ModelOpt splits. Granite's have no module for the experts."""
_PARTS = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "input_linear": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
    "output_linear": ("down_proj",),
}
_WHOLE = ("llama4",)
"""Families whose experts ModelOpt does not split: it wraps `Llama4TextExperts`, whose weights are not those of linear
functions, in `plugins/huggingface.py`."""
_STACKED = 3


def split_experts(checkpoint: Checkpoint, config: Config, structure: Structure) -> Checkpoint:
    """Return a checkpoint with a tensor for each matrix of each expert. What is not understood stays as it is."""
    if str(text_config(config).get("model_type", "")).startswith(_WHOLE):
        return checkpoint
    tensors = dict(checkpoint.tensors)
    hidden = tensors[f"{structure.embedding}.weight"].shape[1]
    for experts, leaves in _stacked(checkpoint, structure).items():
        transposed = _is_transposed(leaves, hidden)
        if transposed is None or f"{experts}.gate_up_proj_bias" in tensors:
            continue
        for leaf, whole in leaves.items():
            del tensors[whole.name]
            tensors.update((part.name, part) for part in _matrices(whole, experts, _PARTS[leaf], transposed=transposed))
    return replace(checkpoint, tensors={name: tensors[name] for name in sorted(tensors, key=natural)})


def _stacked(checkpoint: Checkpoint, structure: Structure) -> dict[str, dict[str, StoredTensor]]:
    """Return the tensors that may be split, by module of the experts and by leaf."""
    found: dict[str, dict[str, StoredTensor]] = {}
    for tensor in checkpoint.tensors.values():
        match = _PROJECTIONS.fullmatch(tensor.name)
        if match and len(tensor.shape) == _STACKED and structure.layer_of(tensor.name) is not None:
            experts = match["experts"] or f"{match['block']}.experts"
            found.setdefault(experts, {})[match["gated"] or match["linear"]] = tensor
    return found


def _is_transposed(leaves: Mapping[str, StoredTensor], hidden: int) -> bool | None:
    """Tell whether matrices are stored as [inputs, outputs]; None if the shapes are not those of gated experts."""
    shapes = {len(_PARTS[leaf]): tensor.shape for leaf, tensor in leaves.items()}
    if len(shapes) != len(leaves) or len(shapes) != len(("gate and up", "down")):
        return None
    (count, *gate_up), (same, *down) = shapes[2], shapes[1]
    for transposed, (inner, outer) in ((False, reversed(down)), (True, down)):
        wide = [hidden, 2 * inner] if transposed else [2 * inner, hidden]
        if count == same and outer == hidden and gate_up == wide:
            return transposed
    return None


def _matrices(whole: StoredTensor, experts: str, names: Sequence[str], *, transposed: bool) -> Iterator[ExpertMatrix]:
    """Yield the matrices of a tensor. Those of one expert are below each other, or side by side if transposed."""
    count, rows, columns = whole.shape
    outputs, inputs = (columns, rows) if transposed else (rows, columns)
    shape = (outputs // len(names), inputs)
    for expert in range(count):
        begin = whole.begin + expert * whole.row_bytes
        for part, name in enumerate(names):
            matrix = ExpertMatrix(
                f"{experts}.{expert}.{name}.weight",
                whole.dtype,
                shape,
                whole.file,
                begin,
                stored=whole,
                expert=expert,
                part=part,
                parts=len(names),
                transposed=transposed,
            )
            yield matrix if transposed else replace(matrix, begin=begin + part * matrix.size)
