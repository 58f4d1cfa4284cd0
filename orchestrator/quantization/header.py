"""Reads and writes the header of a safetensors file.

A safetensors file is 8 bytes with the length of the header (little endian), the header (a JSON object: name -> dtype,
shape, begin and end of the tensor in the data), and the data without gaps.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CheckpointError
from orchestrator.quantization.files import opened, require_regular
from orchestrator.quantization.tensors import DTYPES, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from orchestrator.quantization.tensors import TensorSpec

_RANK = {name: rank for rank, name in enumerate(DTYPES)}
_LIMIT = 100_000_000  # bytes; what the safetensors library accepts
_LONGEST_NAME = 1000
_MOST_SIZES = 32
_LARGEST_SIZE = 2**48
_LFS_POINTER = b"version https://git-lfs"


def read(file: Path) -> dict[str, StoredTensor]:
    """Read and check the header of one safetensors file.

    Raises:
        CheckpointError: It is no such file, or its header contradicts itself or the file.
    """
    require_regular(file)
    with opened(file) as descriptor:
        size = os.fstat(descriptor).st_size
        start = os.pread(descriptor, max(8, len(_LFS_POINTER)), 0)
        length = _length(file, start, size)
        text = os.pread(descriptor, length, 8)
    try:
        entries = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        message = f"{file}: the header is not JSON: {error!s:.200}"
        raise CheckpointError(message) from None
    if not isinstance(entries, dict):
        message = f"{file}: found a {type(entries).__name__} as header, expected an object"
        raise CheckpointError(message)
    _check_metadata(file, entries.get("__metadata__", {}))
    data = 8 + length
    tensors = {name: _entry(file, name, entry, data) for name, entry in entries.items() if name != "__metadata__"}
    _contiguous(file, tensors.values(), data, size)
    return tensors


def _check_metadata(file: Path, metadata: object) -> None:
    """Check that the metadata are strings by name. The safetensors library refuses a file with others."""
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        message = f"{file}: __metadata__: found {metadata!a:.200}, expected an object of strings"
        raise CheckpointError(message)


def _length(file: Path, start: bytes, size: int) -> int:
    if start.startswith(_LFS_POINTER):
        message = f"{file}: found a Git LFS pointer, expected weights"
        raise CheckpointError(message, hint="Run `git lfs pull` where the checkpoint was cloned, or download it.")
    if size < 8:  # noqa: PLR2004 - the length of the length
        message = f"{file}: found {size} bytes, expected at least the 8 bytes of a safetensors header's length"
        raise CheckpointError(message)
    length: int = struct.unpack("<Q", start[:8])[0]
    if length > min(_LIMIT, size - 8):
        message = (
            f"{file}: the first 8 bytes say that the header has {length} bytes, but the file has {size - 8} more bytes"
            f" and a header at most {_LIMIT}; the file is truncated or not safetensors"
        )
        raise CheckpointError(message)
    return length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        message = f"{twice[0]} occurs twice"
        raise ValueError(message)
    return dict(pairs)


def _entry(file: Path, name: str, entry: object, data: int) -> StoredTensor:
    """Check the header's entry of one tensor. `data` is the offset of the data in the file."""
    if not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME or "/" in name:
        message = f"{file}: found the name {name!a:.100}, expected one such as model.norm.weight"
        raise CheckpointError(message)
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        message = f"{file}: {name}: found {entry!r:.200}, expected dtype, shape and data_offsets"
        raise CheckpointError(message)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        message = f"{file}: {name}: found dtype {dtype!r:.50}, expected one of {', '.join(DTYPES)}"
        raise CheckpointError(message)
    if not _naturals(shape) or len(shape) > _MOST_SIZES or any(size > _LARGEST_SIZE for size in shape):
        message = f"{file}: {name}: found shape {shape!r:.200}, expected up to {_MOST_SIZES} whole numbers from 0"
        raise CheckpointError(message)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:  # noqa: PLR2004 - begin and end
        message = f"{file}: {name}: found data_offsets {offsets!r:.200}, expected begin and end"
        raise CheckpointError(message)
    tensor = StoredTensor(name, dtype, tuple(shape), file, data + offsets[0])
    if tensor.size != offsets[1] - offsets[0]:
        message = (
            f"{file}: {name}: found {offsets[1] - offsets[0]} bytes,"
            f" expected {tensor.size} for {dtype} of shape {list(shape)}"
        )
        raise CheckpointError(message)
    return tensor


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _contiguous(file: Path, tensors: Iterable[StoredTensor], data: int, size: int) -> None:
    """Check that tensors follow each other without gap or overlap from `data` to the end of the file."""
    end = data
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.size)):
        if tensor.begin != end:
            kind = "overlaps what comes before it" if tensor.begin < end else "leaves a gap before it"
            message = f"{file}: {tensor.name}: found begin {tensor.begin - data}, expected {end - data}; it {kind}"
            raise CheckpointError(message)
        end += tensor.size
    if end != size:
        state = "truncated" if size < end else "followed by something else"
        message = f"{file}: found {size} bytes, expected {end} from the header; the file is {state}"
        raise CheckpointError(message, hint="Download the file again.")


def build(specs: Sequence[TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """Return the bytes before the data, and the offset of each tensor in the file.

    Tensors are in the order of the safetensors library: by type, the widest first, so that each is aligned to its type
    (loaders view the data in place), then by name. With the header padded to a multiple of 8 with spaces, a file is
    byte for byte the one that the library writes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    ends: dict[str, int] = {}
    end = 0
    for spec in sorted(specs, key=lambda spec: (-_RANK[spec.dtype], spec.name.encode())):
        header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [end, end + spec.size]}
        end += spec.size
        ends[spec.name] = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    begins = {spec.name: start + ends[spec.name] - spec.size for spec in specs}
    return struct.pack("<Q", len(text)) + text, begins
