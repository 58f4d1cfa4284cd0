"""Reads the headers of safetensors files: what a checkpoint holds, its bytes, and the parameters of its original.

Headers are handed to this module; it opens no file and no connection. A header is a JSON object: name -> type, shape
and place of the bytes (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.errors import CheckpointError

_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
        "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
        "U64": 64,
    }
)  # fmt: skip
_MOST_TENSORS = 2_000_000
"""Ten times the tensors of the largest published mixture of experts."""
_MOST_VALUES = 2**48


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Its first byte after the header."""
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin

    @property
    def elements(self) -> int:
        """Values as stored. A packed byte counts as one."""
        return math.prod(self.shape)


def parse(text: bytes | str, where: str, data_bytes: int | None = None) -> dict[str, Stored]:
    """Read the JSON of one header.

    Args:
        text: The JSON.
        where: The file's name in messages.
        data_bytes: Bytes of the file after its header, if known.

    Raises:
        CheckpointError: It is not a header, or it contradicts itself or the file.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{where}: the header is not JSON: {error!s:.100}"
        raise CheckpointError(message) from None
    if not isinstance(document, dict) or len(document) > _MOST_TENSORS:
        what = f"{len(document)} tensors" if isinstance(document, dict) else f"a {type(document).__name__}"
        message = f"{where}: the header is {what}, expected an object of at most {_MOST_TENSORS} tensors"
        raise CheckpointError(message)
    found = {name: _entry(name, entry, where) for name, entry in document.items() if name != "__metadata__"}
    _insist_on_order(found, where, data_bytes)
    return found


def _entry(name: str, entry: object, where: str) -> Stored:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise _wrong(name, where, f"found {entry!r:.80}, expected dtype, shape and two data_offsets")
    if not name.isprintable():  # a lone surrogate is not
        raise _wrong(name, where, "its name has characters that cannot be printed")
    if dtype not in _BITS:
        raise _wrong(name, where, f"dtype: found {dtype!r:.30}, expected one of {', '.join(_BITS)}")
    sizes = tuple(size for size in shape if type(size) is int and 0 <= size <= _MOST_VALUES)
    if len(sizes) != len(shape) or len(sizes) > len(_BITS) or math.prod(sizes) > _MOST_VALUES:
        raise _wrong(name, where, f"shape: found {shape!r:.60}")
    needed = -(-math.prod(sizes) * _BITS[dtype] // 8)
    if not 0 <= begin <= end or end - begin != needed:
        raise _wrong(name, where, f"found {end - begin} bytes, expected {needed} for {dtype} of shape {list(sizes)}")
    return Stored(dtype, sizes, begin, end)


def _wrong(name: str, where: str, what: str) -> CheckpointError:
    message = f"{where}: {name!a:.120}: {what}"
    return CheckpointError(message, hint="The file is damaged or not what it claims to be. Download it again.")


def _insist_on_order(found: Mapping[str, Stored], where: str, data_bytes: int | None) -> None:
    """Refuse tensors that overlap, leave gaps or reach beyond the end of the file."""
    end = 0
    for name, tensor in sorted(found.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if tensor.begin != end:
            what = "overlaps the tensor before it" if tensor.begin < end else "leaves a gap before it"
            raise _wrong(name, where, f"begins at byte {tensor.begin}, expected {end}: it {what}")
        end = tensor.end
    if data_bytes is not None and end != data_bytes:
        message = f"{where}: the header describes {end} bytes of tensors, but the file has {data_bytes}"
        raise CheckpointError(message, hint="The file is damaged or incomplete. Download it again.")


@dataclass(frozen=True, eq=False)
class Weights:
    """The tensors of a checkpoint by name, as its headers describe them."""

    tensors: Mapping[str, Stored]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())


def joined(
    files: Iterable[tuple[str, Mapping[str, Stored]]], index: Mapping[str, object] | None, where: str
) -> Weights:
    """Join the headers of a checkpoint's files, and compare them with its index.

    Args:
        files: Name and tensors of each file.
        index: `model.safetensors.index.json`, if there is one. Only the files that it names are part of the model.
        where: The checkpoint's name in messages.

    Raises:
        CheckpointError: A tensor is in two files, or index and files disagree.
    """
    headers = dict(files)
    placed = _weight_map(index, where) if index is not None else None
    if placed is not None:
        missing = sorted(set(placed.values()) - set(headers))
        if missing:
            message = f"{where}: its index names {missing[0]!a:.120}, which is missing"
            raise CheckpointError(message, hint="The checkpoint is incomplete. Choose another revision or repository.")
        headers = {name: headers[name] for name in sorted(set(placed.values()))}
    tensors: dict[str, Stored] = {}
    for file, found in headers.items():
        for name, tensor in found.items():
            if name in tensors:
                message = f"{where}: {name} is in two files, the second is {file}"
                raise CheckpointError(message)
            if placed is not None and placed.get(name) != file:
                message = f"{where}: {file} has {name}, which its index does not place there"
                raise CheckpointError(message)
            tensors[name] = tensor
    lost = next((name for name in placed or () if name not in tensors), None)
    if lost is not None:
        message = f"{where}: its index lists {lost!a:.120}, which no file has"
        raise CheckpointError(message)
    return Weights(tensors)


def _weight_map(index: Mapping[str, object], where: str) -> dict[str, str]:
    placed = index.get("weight_map")
    if not isinstance(placed, Mapping) or not placed or not all(isinstance(file, str) for file in placed.values()):
        message = f"{where}: the index has no weight_map that gives the file of each tensor"
        raise CheckpointError(message)
    return {str(name): str(file) for name, file in placed.items()}


_SCALES = re.compile(
    r"[._](weight_scale(_2|_inv)?|input_scale|[kvq]_scale|weight_zero_point|weight_shape|weight_g_idx|g_idx|qzeros"
    r"|scales|pre_quant_scale|(input|weight|output)_global_scale|(input|output)_zero_point|output_scale|absmax|quant_map"
    r"|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+|SCB|weight_format|scale_inv|activation_scale)$"
)
"""What a quantization adds to a model: scales, zero points and tables.

Of ModelOpt, compressed-tensors, GPTQ, AWQ, MXFP4, bitsandbytes and FP8.
"""
_PER_BYTE = 2
_INT32_BITS = 32


def parameters_of(weights: Weights, quantization: Mapping[str, object] | None = None) -> int:
    """Count the parameters of the unquantized original.

    Args:
        weights: The checkpoint.
        quantization: `quantization_config` of its config.json. Only integers of compressed-tensors need it.

    Raises:
        CheckpointError: A packed tensor cannot be unpacked.
    """
    tensors = weights.tensors
    return sum(_original(name, tensor, tensors, quantization) for name, tensor in tensors.items())


def _original(
    name: str, tensor: Stored, tensors: Mapping[str, Stored], quantization: Mapping[str, object] | None
) -> int:
    if _is_scale(name, tensors):
        return 0
    stem, _, leaf = name.rpartition(".")
    if leaf == "qweight":
        return _gptq(name, tensor, tensors)
    if leaf == "weight_packed" and tensor.dtype == "I32":
        return tensor.elements * _INT32_BITS // _packed_bits(stem, quantization)
    if tensor.dtype == "U8" and _is_packed(name, tensors):
        return tensor.elements * _PER_BYTE
    return tensor.elements


def _is_scale(name: str, tensors: Mapping[str, Stored]) -> bool:
    if _SCALES.search(name):
        return True
    return name.endswith("_scales") and f"{name.removesuffix('_scales')}_blocks" in tensors  # MXFP4 of gpt-oss


def _is_packed(name: str, tensors: Mapping[str, Stored]) -> bool:
    """Tell whether bytes hold two values each: a scale of blocks is beside them."""
    beside = (f"{name}_scale", f"{name}.absmax", f"{name.removesuffix('_packed')}_scale")
    return name.endswith("_blocks") or any(other in tensors for other in beside)


def _gptq(name: str, tensor: Stored, tensors: Mapping[str, Stored]) -> int:
    """Unpack GPTQ, AWQ or auto-round: zero points are packed as the weights are, scales are not packed."""
    stem = name.removesuffix("qweight")
    scales, zeros = tensors.get(f"{stem}scales"), tensors.get(f"{stem}qzeros")
    if scales is None or zeros is None or not zeros.elements or tensor.elements * scales.elements % zeros.elements:
        message = f"{name}: its scales or qzeros are missing or do not fit, so its original size is unknown"
        raise CheckpointError(message)
    return tensor.elements * scales.elements // zeros.elements


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


def parts_of(weights: Weights, layers: int) -> dict[str, int]:
    """Return the bytes of what is beside the layers of text, by name: vision, audio, layers that propose tokens.

    Args:
        weights: The checkpoint.
        layers: Layers of the language model. Later ones propose tokens.
    """
    found: dict[str, int] = {}
    for name, tensor in weights.tensors.items():
        part = _part(name, layers)
        if part:
            found[part] = found.get(part, 0) + tensor.size
    return found


_BESIDE = (
    ("vision", re.compile(r"(^|\.)(vision|visual|image|img|multi_modal_projector|mm_projector|embed_vision)")),
    ("audio", re.compile(r"(^|\.)(audio|speech|sound|embed_audio)")),
    ("proposers", re.compile(r"(^|\.)(mtp|eagle|medusa|draft)")),
)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def _part(name: str, layers: int) -> str | None:
    part = next((part for part, pattern in _BESIDE if pattern.search(name)), None)
    if part is None and (numbered := _LAYER.search(name)) and int(numbered[1]) >= layers:
        return "proposers"
    return part
