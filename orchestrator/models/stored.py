"""Reads the tensors of the unquantized original from a checkpoint's headers, each with its bytes as stored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.errors import CheckpointError
from orchestrator.models.headers import Stored
from orchestrator.models.shape import Tensor

_SCALES = re.compile(
    r"[._](weight_scale(_2|_inv)?|input_scale|[kvq]_scale|weight_zero_point|weight_shape|weight_g_idx|g_idx|qzeros"
    r"|scales|pre_quant_scale|(input|weight|output)_global_scale|(input|output)_zero_point|output_scale"
    r"|(weight\.)?(nested_)?(absmax|quant_map)|weight\.quant_state\.bitsandbytes__\w+|SCB|weight_format|scale_inv"
    r"|activation_scale)$"
)
"""What a quantization adds to a module: scales, zero points and tables.

Of ModelOpt, compressed-tensors, GPTQ, AWQ, MXFP4, bitsandbytes and FP8.
"""
_LEAF = re.compile(r"\.(weight|weight_packed|qweight)$|_(blocks)$")
_EXPERT = re.compile(r"(?<=experts\.)\d+(?=\.)")
_PER_BYTE = 2
_INT32_BITS = 32


def originals_of(weights: Mapping[str, Stored], quantization: Mapping[str, object] | None = None) -> tuple[Tensor, ...]:
    """Return what a checkpoint holds, as tensors of its unquantized original.

    Scales count to the bytes of their weight; those without a weight are an original without values.

    Args:
        weights: Its tensors by name.
        quantization: `quantization_config` of its config.json. Only integers of compressed-tensors need it.

    Raises:
        CheckpointError: A packed tensor cannot be unpacked.
    """
    scales: dict[str, int] = {}
    for name, tensor in weights.items():
        if (owner := _scale(name, weights)) is not None:
            scales[owner] = scales.get(owner, 0) + tensor.size
    groups: dict[tuple[str, tuple[int, ...], str], Tensor] = {}
    for name, tensor in weights.items():
        if _scale(name, weights) is None:
            module = _LEAF.sub("", name)
            found = _original(name, module, tensor, weights, quantization)
            before = groups.get((found.name, found.shape, found.dtype))
            size = tensor.size + scales.pop(module, 0)
            groups[found.name, found.shape, found.dtype] = replace(
                found,
                count=found.count + (before.count if before else 0),
                stored=size + ((before.stored or 0) if before else 0),
            )
    alone = (Tensor(f"{module}.scales", (0,), stored=size) for module, size in scales.items())
    return (*groups.values(), *alone)


def _scale(name: str, weights: Mapping[str, Stored]) -> str | None:
    """Return the module of a scale; None for any other tensor."""
    if name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in weights:  # MXFP4 of gpt-oss
        return name.removesuffix("_scales")
    if name.endswith((".scale", ".qscale_weight")):  # FP8 of DeepSeek-V4 and Mistral; elsewhere `scale` is a parameter
        module = name.rpartition(".")[0]
        weight = weights.get(f"{module}.weight")
        return module if weight is not None and weight.dtype.startswith(("F8_", "I8")) else None
    found = _SCALES.search(name)
    return name[: found.start()] if found else None


def _original(
    name: str, module: str, tensor: Stored, weights: Mapping[str, Stored], quantization: Mapping[str, object] | None
) -> Tensor:
    leaf, shape = _LEAF.search(name), tensor.shape
    if leaf and leaf[1] == "qweight":
        shape = _unpacked(name, module, tensor, weights)
    elif leaf and leaf[1] == "weight_packed" and tensor.dtype == "I32":
        shape = (*shape[:-1], shape[-1] * _INT32_BITS // _packed_bits(module, quantization))
    elif leaf and leaf[2]:  # MXFP4 of gpt-oss: [..., blocks, bytes of a block]
        shape = (*shape[:-2], math.prod(shape[-2:]) * _PER_BYTE)
    elif f"{name}.absmax" in weights:  # bitsandbytes packs a matrix as one column
        shape = (tensor.elements * _PER_BYTE, 1) if tensor.dtype == "U8" else shape
    elif _has_two_in_a_byte(name, module, tensor, weights):
        shape = (*shape[:-1], shape[-1] * _PER_BYTE)
    stacked = "experts." in name and len(shape) == (2 if name.endswith("_bias") else 3)
    return Tensor(
        _EXPERT.sub("{}", module if leaf and leaf[2] else f"{module}.weight" if leaf else name),
        shape[1:] if stacked else shape,
        count=shape[0] if stacked else 1,
        dtype="F32" if tensor.dtype == "F32" else "BF16",
        stacked=stacked,
    )


def _has_two_in_a_byte(name: str, module: str, tensor: Stored, weights: Mapping[str, Stored]) -> bool:
    if tensor.dtype == "I8":  # experts of DeepSeek-V4
        scales = weights.get(f"{module}.scale")
        return scales is not None and scales.dtype == "F8_E8M0"
    return tensor.dtype == "U8" and (f"{name}_scale" in weights or f"{module}.weight_scale" in weights)


def _unpacked(name: str, module: str, tensor: Stored, weights: Mapping[str, Stored]) -> tuple[int, ...]:
    """Unpack GPTQ, AWQ or auto-round: zero points are packed as the weights are, scales are not packed."""
    scales, zeros = weights.get(f"{module}.scales"), weights.get(f"{module}.qzeros")
    if scales is None or zeros is None or not zeros.elements or tensor.elements * scales.elements % zeros.elements:
        message = f"{name}: its scales or qzeros are missing or do not fit, so its original size is unknown"
        raise CheckpointError(message)
    rows = max(scales.shape[-1:], default=1)
    return rows, tensor.elements * scales.elements // zeros.elements // rows


def _packed_bits(module: str, quantization: Mapping[str, object] | None) -> int:
    """Return the bits of a weight of compressed-tensors: of the group whose targets name its module."""
    groups = (quantization or {}).get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        match group:
            case {"targets": [*targets], "weights": {"num_bits": int(bits)}} if 1 <= bits <= _INT32_BITS:
                if any(_targets(target, module) for target in targets):
                    return bits
    message = f"{module}: no group of quantization_config says how many bits its packed weights have"
    raise CheckpointError(message)


def _targets(target: object, module: str) -> bool:
    if not isinstance(target, str):
        return False
    if target.startswith("re:"):
        try:
            return re.match(target[3:], module) is not None
        except re.error:
            return False
    return target in ("Linear", module) or module.endswith(f".{target}")
