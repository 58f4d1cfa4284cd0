"""Reads a Hugging Face checkpoint on demand: safetensors files, with an index if there are several.

Files are read with `pread`: on a machine with unified memory, a mapped checkpoint of 140 GB
competes with the model. For the same reason pages are released after use. (`residence` maps files, one layer at
a time.)
"""

from __future__ import annotations

import errno
import math
import os
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from orchestrator.errors import CheckpointError
from orchestrator.models.weight_files import INDEX, SINGLE, named_files
from orchestrator.quantization import header
from orchestrator.quantization.files import OpenFile, give_back, read_json
from orchestrator.quantization.tensors import DTYPES, PackedTensor, is_derived, natural
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.tensors import StoredTensor

_KEPT_OPEN = 64
"""Most open files. The least recently read ones are closed."""


def _kept_open() -> Callable[[Path], OpenFile]:
    return lru_cache(_KEPT_OPEN)(OpenFile)


@frozen
class Checkpoint:
    """The tensors of a folder, with checked headers. Their data is read on demand."""

    folder: Path
    tensors: Mapping[str, StoredTensor]
    """By name, in natural order (layer 2 before layer 10)."""
    _opened: Callable[[Path], OpenFile] = field(default_factory=_kept_open, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read every header of a folder.

        Raises:
            CheckpointError: A file is missing, truncated, misnamed or malformed; or index and files disagree.
        """
        found = _indexed(folder) if (folder / INDEX).exists() else header.read(_single(folder))
        return cls(folder, {name: found[name] for name in sorted(found, key=natural)})

    def read(
        self,
        name: str,
        first: int = 0,
        last: int | None = None,
        *,
        again: bool = False,
        into: NDArray[np.uint8] | None = None,
    ) -> NDArray[Any]:
        """Read a tensor, or its rows `first` up to but not including `last`.

        Args:
            name: A key of `tensors`.
            first: The first row.
            last: The row after the last one; all rows when left out. A scalar has no rows and is read whole.
            again: The same rows will be read again soon, so they stay in the page cache.
            into: Memory for the result, with at least as many bytes; by default new memory.

        Raises:
            CheckpointError: The file became shorter since its header was read.
        """
        tensor = self.tensors[name]
        if is_derived(tensor):  # all numbers of it, or of its expert, are read
            return _put(tensor.straight(self._rows(tensor.stored, *tensor.stored_rows))[first:last], into)
        return self._rows(tensor, first, last, again=again, into=into)

    def _rows(
        self,
        tensor: StoredTensor,
        first: int,
        last: int | None,
        *,
        again: bool = False,
        into: NDArray[np.uint8] | None = None,
    ) -> NDArray[Any]:
        if isinstance(tensor, PackedTensor):
            return _put(tensor.decoded(self._rows, first, last), into)
        shape = tensor.shape and ((tensor.shape[0] if last is None else last) - first, *tensor.shape[1:])
        size = math.prod(shape) * DTYPES[tensor.dtype].itemsize
        data = np.empty(size, np.uint8) if into is None else into[:size]
        self._fill(tensor, first * tensor.row_bytes, data, again=again)
        return data.view(DTYPES[tensor.dtype]).reshape(shape)

    def runs(self, name: str, chunk_bytes: int) -> Iterator[tuple[int, int]]:
        """Split a tensor into runs of whole rows of at most `chunk_bytes` (at least one row).

        Each run is its first row and the one after its last. A scalar counts as one row. A matrix that is stored
        transposed is one run, because reading some of its rows takes as long.
        """
        tensor = self.tensors[name]
        count = tensor.shape[0] if tensor.shape else 1
        step = count if is_derived(tensor) else max(1, chunk_bytes // max(1, tensor.row_bytes))
        for first in range(0, count, step):
            yield first, min(first + step, count)

    def rows(self, name: str, chunk_bytes: int, *, again: bool = False) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read a tensor in runs of whole rows of at most `chunk_bytes` (at least one row): first row, rows.

        A scalar comes as one run of shape [1].
        """
        for first, last in self.runs(name, chunk_bytes):
            rows = self.read(name, first, last, again=again)
            yield first, rows if rows.shape else rows.reshape(1)

    def fill(self, name: str, begin: int, data: NDArray[np.uint8], *, again: bool = False) -> None:
        """Fill an array with bytes of a tensor that is in order, from its byte `begin` on.

        Raises:
            CheckpointError: The file became shorter since its header was read, or the disk cannot read it.
        """
        self._fill(self.tensors[name], begin, data, again=again)

    def _fill(self, tensor: StoredTensor, begin: int, data: NDArray[np.uint8], *, again: bool) -> None:
        file = self._opened(tensor.file)
        filled = 0
        while filled < len(data):
            count = _read_into(file.descriptor, data[filled:], tensor, begin + filled)
            if count == 0:
                message = f"{tensor.file}: the file ends inside {tensor.name}; it changed while it was being read"
                raise CheckpointError(message)
            filled += count
        if not again:
            give_back(file.descriptor, tensor.begin + begin, len(data))


def _put(rows: NDArray[Any], into: NDArray[np.uint8] | None) -> NDArray[Any]:
    """Return rows in order, in the memory that is given."""
    if into is None:
        return np.ascontiguousarray(rows)
    target = into[: rows.nbytes].view(rows.dtype).reshape(rows.shape)
    target[...] = rows
    return target


def _read_into(descriptor: int, data: NDArray[np.uint8], tensor: StoredTensor, begin: int) -> int:
    try:
        return os.preadv(descriptor, [data.data], tensor.begin + begin)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        message = f"{tensor.file}: {tensor.name}: the disk cannot read it: {error.strerror}"
        raise CheckpointError(message, hint="Download the file again, to another disk if this goes on.") from error


def _single(folder: Path) -> Path:
    """Return the only weight file of a checkpoint without an index."""
    file = folder / SINGLE
    if file.is_file():
        return file
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    listing = f"found {', '.join(there)}" if there else "found no safetensors file"
    message = f"{folder}: {listing}, expected {SINGLE} or {INDEX} with the shards that it names"
    raise CheckpointError(message, hint="Download the checkpoint again; weights in .bin or .gguf files are not read.")


def _indexed(folder: Path) -> dict[str, StoredTensor]:
    """Read all shards of an index and check that both agree."""
    placed = named_files(read_json(folder / INDEX), str(folder / INDEX))
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(placed.values())):
        if not (folder / shard).is_file():
            there = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))) or "no safetensors file"
            message = f"{folder}: {INDEX} names {shard}, which is missing; found {there}"
            raise CheckpointError(message, hint="Download the checkpoint again, or give the file its right name.")
        for name, tensor in header.read(folder / shard).items():
            if name in found:
                message = f"{folder}: {name} is in both {found[name].file.name} and {shard}, expected it once"
                raise CheckpointError(message)
            found[name] = tensor
    _agree(folder, placed, found)
    return found


def _agree(folder: Path, placed: Mapping[str, str], found: Mapping[str, StoredTensor]) -> None:
    for name, shard in placed.items():
        if name not in found or found[name].file.name != shard:
            actual = f"it is in {found[name].file.name}" if name in found else "no shard has it"
            message = f"{folder}: {INDEX} places {name} in {shard}, but {actual}"
            raise CheckpointError(message)
    for name, tensor in found.items():
        if name not in placed:
            message = f"{folder}: {tensor.file.name} has {name}, which {INDEX} does not list"
            raise CheckpointError(message)
