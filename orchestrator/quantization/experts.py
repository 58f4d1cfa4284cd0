"""Splits a tensor that holds a matrix for each expert of a layer into these matrices.

Some checkpoints have `experts.gate_up_proj` and `experts.down_proj` with three dimensions. ModelOpt's export splits
most of them: each expert's gate, up and down projection becomes a tensor of its own, `experts.0.gate_proj.weight`, of
which only the position in the file is calculated here. Shapes tell whether a matrix is stored as [outputs, inputs] or
transposed.

Experts whose module multiplies with transposed matrices stay in one tensor, with one scale. Here they are matrices too,
`experts.gate_up_proj.0.weight`, and what they become is written to one tensor.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

from orchestrator.quantization.structure import text_config
from orchestrator.quantization.tensors import ExpertMatrix, TensorSpec, natural

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

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
"""Families whose experts ModelOpt does not split, like those with biases (gpt-oss): it transposes the weights of
`Llama4TextExperts` and `GptOssExperts` in `export/unified_export_hf.py`."""
_STACKED = 3
_LEAVES = ("weight", "weight_scale", "weight_scale_2", "input_scale")


def split_experts(checkpoint: Checkpoint, config: Config, structure: Structure) -> Checkpoint:
    """Return a checkpoint with a tensor for each matrix of each expert. What is not understood stays as it is."""
    known = str(text_config(config).get("model_type", "")).startswith(_WHOLE)
    tensors = dict(checkpoint.tensors)
    for experts, leaves in _stacked(checkpoint, structure).items():
        transposed, whole = _is_transposed(leaves, structure.hidden), known or f"{experts}.gate_up_proj_bias" in tensors
        if transposed is None or (whole and not transposed):
            continue
        for leaf, stored in leaves.items():
            del tensors[stored.name]
            parts: Iterable[ExpertMatrix] = _matrices(stored, experts, _PARTS[leaf], transposed=transposed)
            if whole:
                names = (f"{stored.name}.{expert}.weight" for expert in range(stored.shape[0]))
                parts = (_expert(stored, expert, name) for expert, name in enumerate(names))
            tensors.update((part.name, part) for part in parts)
    return _sorted(checkpoint, tensors)


def join_unquantized(checkpoint: Checkpoint, quantized: Container[str]) -> Checkpoint:
    """Return a checkpoint in which experts that stay in one tensor and are not quantized are that tensor again."""
    tensors = dict(checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        if is_whole(tensor) and name.removesuffix(".weight") not in quantized:
            del tensors[name]
            tensors[tensor.stored.name] = tensor.stored
    return _sorted(checkpoint, tensors)


def split_quantized(checkpoint: Checkpoint, original: Checkpoint) -> Checkpoint:
    """Return a quantized checkpoint in which experts have the names that they have in its split original."""
    tensors = dict(checkpoint.tensors)
    for matrix in filter(is_whole, original.tensors.values()):
        for leaf in _LEAVES:
            part = f"{matrix.name.removesuffix('.weight')}.{leaf}"
            stored = checkpoint.tensors.get(whole_name(matrix, part))
            if stored is not None:
                tensors.pop(stored.name, None)
                tensors[part] = _expert(stored, matrix.expert, part) if stored.shape else replace(stored, name=part)
    return _sorted(checkpoint, tensors)


def is_whole(tensor: TensorSpec) -> TypeGuard[ExpertMatrix]:
    """Tell whether a matrix of an expert is quantized into one tensor with those of all experts."""
    return isinstance(tensor, ExpertMatrix) and tensor.whole


def whole_name(matrix: ExpertMatrix, name: str) -> str:
    """Return the tensor that has, for all experts, a matrix's weight or one of its scales."""
    leaf = name.rpartition(".")[2]
    return matrix.stored.name if leaf == "weight" else f"{matrix.stored.name}_{leaf}"


def whole_spec(matrix: ExpertMatrix, spec: TensorSpec) -> TensorSpec:
    """Return the tensor that has, for all experts, what one matrix becomes."""
    shape = (matrix.stored.shape[0], *reversed(spec.shape)) if spec.shape else ()
    return TensorSpec(whole_name(matrix, spec.name), spec.dtype, shape)


def _sorted(checkpoint: Checkpoint, tensors: Mapping[str, StoredTensor]) -> Checkpoint:
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


def _expert(whole: StoredTensor, expert: int, name: str) -> ExpertMatrix:
    """Return an expert's part, [outputs, inputs], of a tensor [experts, inputs, outputs] that stays one tensor."""
    _, inputs, outputs = whole.shape
    begin = whole.begin + expert * whole.row_bytes
    return ExpertMatrix(
        name,
        whole.dtype,
        (outputs, inputs),
        whole.file,
        begin,
        stored=whole,
        expert=expert,
        part=0,
        parts=1,
        transposed=True,
        whole=True,
    )
