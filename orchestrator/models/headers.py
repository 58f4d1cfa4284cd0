"""Reads the headers of safetensors files: what a checkpoint holds, and whether that is true.

Headers are handed to this module; it opens no file and no connection. A header is a JSON object: name -> type, shape
and place of the bytes (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
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
_LARGEST = 100_000_000
"""Bytes of the largest header that the safetensors library accepts."""
_LFS_POINTER = b"version https://git-lfs"


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


def header_length(start: bytes, size: int, where: str) -> int:
    """Return the bytes of a file's header, which the first 8 bytes give.

    Args:
        start: The file's first bytes.
        size: Bytes of the whole file.
        where: Its name in messages.

    Raises:
        CheckpointError: The file is not a safetensors file.
    """
    if start.startswith(_LFS_POINTER):
        message = f"{where}: found a Git LFS pointer, expected weights"
        raise CheckpointError(message, hint="Run `git lfs pull` where the checkpoint was cloned, or download it.")
    length: int = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0  # noqa: PLR2004 - the length of the length
    if not 1 < length <= min(_LARGEST, size - 8):
        message = f"{where} does not begin like a safetensors file"
        raise CheckpointError(message, hint="The file is damaged or incomplete. Download it again.")
    return length


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
        document = json.loads(text if isinstance(text, str) else text.decode())
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


def joined(
    files: Iterable[tuple[str, Mapping[str, Stored]]], index: Mapping[str, object] | None, where: str
) -> dict[str, Stored]:
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
    return tensors


def _weight_map(index: Mapping[str, object], where: str) -> dict[str, str]:
    placed = index.get("weight_map")
    if not isinstance(placed, Mapping) or not placed or not all(isinstance(file, str) for file in placed.values()):
        message = f"{where}: the index has no weight_map that gives the file of each tensor"
        raise CheckpointError(message)
    return {str(name): str(file) for name, file in placed.items()}
