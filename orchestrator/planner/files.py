"""Calculates the exact bytes of a checkpoint's files: tensors, and the header of each safetensors file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import Kept, Stored, kept_tensors
from orchestrator.planner.scheme import Scheme

SHARD_BYTES = 5_000_000_000
"""The largest file that our quantizer writes."""

_FUSED = (("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"), ("gate_proj", "up_proj"), ("w1", "w3"))
_RANK = ("U8", "F8_E4M3", "BF16", "F32")
"""Types in the order of safetensors. The widest comes first in a file."""

Unit = list[tuple[str, Stored]]


@lru_cache(maxsize=64)
def file_bytes(shape: ModelShape, scheme: Scheme, shard_bytes: int = SHARD_BYTES) -> int:
    """Return the bytes of all weight files of a checkpoint in our own quantizer's layout, headers included."""
    return sum(_file(tensors) for tensors in _files(shape, scheme, shard_bytes))


def _files(shape: ModelShape, scheme: Scheme, limit: int) -> Iterator[Unit]:
    """Distribute tensors over files. Tensors with a common scale stay together."""
    current: Unit = []
    filled = 0
    for unit in _units(shape, scheme):
        size = sum(part.size for _, part in unit)
        if current and filled + size > limit:
            yield current
            current, filled = [], 0
        current.extend(unit)
        filled += size
    yield current


def _units(shape: ModelShape, scheme: Scheme) -> list[Unit]:
    """Group tensors that stay in one file, in the order of the source."""
    units: dict[str, Unit] = {}
    for kept in sorted(kept_tensors(shape, scheme), key=lambda kept: _natural(kept.source)):
        units.setdefault(_group(kept), []).extend(kept.parts)
    return list(units.values())


def _group(kept: Kept) -> str:
    """Return the unit of a tensor: itself, or the tensors that runtimes fuse it with if it is quantized."""
    parent, _, leaf = kept.source.removesuffix(".weight").rpartition(".")
    fused = next((names for names in _FUSED if leaf in names), None)
    return f"{parent}.{'|'.join(fused)}" if fused and kept.quantized else kept.source


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort names so that numbers in them count as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)


def _file(tensors: Sequence[tuple[str, Stored]]) -> int:
    """Return the bytes of one file: 8 for the header's length, the header padded to a multiple of 8, the data.

    The header is measured and not written: a checkpoint has tens of thousands of tensors.
    """
    text, end = len('{"__metadata__":{"format":"pt"}}'), 0
    for name, part in sorted(tensors, key=lambda pair: (-_RANK.index(pair[1].dtype), pair[0])):
        offsets = len(str(end)) + len(str(end := end + part.size))
        text += len(json.dumps(name)) + _described(part.dtype, part.shape) + offsets
    return 8 + text + -text % 8 + end


@lru_cache(maxsize=4096)
def _described(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor's entry in a header, with the comma before it, without its name and offsets."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
    return len(",:") + len(json.dumps(entry, separators=(",", ":"))) - len("00")
