"""Safetensors files and the number formats of quantized weights, slow and with the standard library alone."""

from __future__ import annotations

import bisect
import json
import math
import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

BLOCK = 16
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1_MAX = 6.0
_E4M3 = tuple(
    (mantissa / 8 * 2.0**-6) if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    for exponent in range(16)
    for mantissa in range(8)
)[:127]
_E4M3_MAX = 448.0
_SMALLEST_SCALE = 2.0**-9


@dataclass(frozen=True)
class Tensor:
    """A tensor as it is stored."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Read every tensor of a checkpoint, one at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    stream.seek(8 + length + begin)
                    yield name, Tensor(entry["dtype"], tuple(entry["shape"]), stream.read(end - begin))


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in sorted(tensors.items()):
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in sorted(tensors.items()):
            stream.write(tensor.data)


def scalar(value: float) -> Tensor:
    """Make a tensor of one FP32 number."""
    return Tensor("F32", (), struct.pack("<f", value))


def largest(tensor: Tensor) -> float:
    """Give the largest magnitude of a BF16 tensor: its order is that of its bits."""
    codes = array("H", tensor.data)
    return _bf16(max((code & 0x7FFF for code in codes), default=0))


def nvfp4(tensor: Tensor, top: float) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize a BF16 matrix: packed weights, scales of blocks of 16, and the scale of all from `top`."""
    rows, columns = tensor.shape
    overall = max(top, _SMALLEST_SCALE) / (_E2M1_MAX * _E4M3_MAX)
    values = [_bf16(code) for code in array("H", tensor.data)]
    packed, scales = bytearray(), bytearray()
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        code = _e4m3(max(map(abs, block)) / _E2M1_MAX / overall)
        scale = max(_E4M3[code], _SMALLEST_SCALE) * overall
        scales.append(max(code, 1))
        nibbles = [_e2m1(value / scale) for value in block]
        packed += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    weight = Tensor("U8", (rows, columns // 2), bytes(packed))
    return weight, Tensor("F8_E4M3", (rows, columns // BLOCK), bytes(scales)), scalar(overall)


def fp8(tensor: Tensor, top: float) -> tuple[Tensor, Tensor]:
    """Quantize a BF16 tensor with one scale."""
    scale = max(top, _SMALLEST_SCALE) / _E4M3_MAX
    coded: dict[int, int] = {}
    data = bytearray()
    for code in array("H", tensor.data):
        if code not in coded:
            value = _bf16(code) / scale
            coded[code] = _e4m3(abs(value)) | (0x80 if value < 0 else 0)
        data.append(coded[code])
    return Tensor("F8_E4M3", tensor.shape, bytes(data)), scalar(scale)


def _bf16(code: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", code << 16))[0]
    return value


def _e4m3(value: float) -> int:
    return _nearest(_E4M3, value)


def _e2m1(value: float) -> int:
    return _nearest(_E2M1, abs(value)) | (8 if math.copysign(1, value) < 0 else 0)


def _nearest(grid: Sequence[float], value: float) -> int:
    above = bisect.bisect_left(grid, value)
    if above == len(grid):
        return len(grid) - 1
    if above == 0:
        return 0
    return above if grid[above] - value < value - grid[above - 1] else above - 1
