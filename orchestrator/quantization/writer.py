"""Writes a checkpoint: safetensors files, with an index where there are several."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from orchestrator.errors import DiskFullError
from orchestrator.models.weight_files import INDEX, SINGLE
from orchestrator.quantization import header
from orchestrator.quantization.files import give_back, sync_folder, write_json
from orchestrator.quantization.tensors import DTYPES, natural

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from orchestrator.quantization.tensors import TensorSpec

SHARD_BYTES = 5_000_000_000

_DROP_EVERY = 4_000_000
"""Bytes of a file after which the kernel is told that written pages are not needed."""


def plan_shards(units: Iterable[Sequence[TensorSpec]], shard_bytes: int = SHARD_BYTES) -> list[list[TensorSpec]]:
    """Distribute tensors over files of at most `shard_bytes` of data, in order.

    Args:
        units: Tensors that stay together in one file of any size.
        shard_bytes: The limit. A larger unit gets a file of its own.
    """
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for unit in units:
        size = sum(spec.size for spec in unit)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].extend(unit)
        filled += size
    return shards


@dataclass
class _Shard:
    """A file being written, under a temporary name until it is complete."""

    path: Path
    begins: dict[str, int]
    """Offset of each tensor's first byte in the file."""
    missing: int
    """Bytes of data not written yet."""
    descriptor: int
    kept: int = 0
    """Bytes written since the page cache was last released."""

    @property
    def partial(self) -> Path:
        return _partial(self.path)


@dataclass
class CheckpointWriter:
    """Writes a checkpoint whose tensors are all known before their data.

    It is a context manager. Headers are written first, then data in any order. A file gets its final name when it is
    complete and flushed to disk. The end of the block without an exception writes the index. A failure leaves files
    that end in `.part`.

    A single file is called `model.safetensors`. Several have numbered names and an index.
    """

    folder: Path
    shards: Sequence[Sequence[TensorSpec]]
    seconds: float = field(init=False, default=0.0)
    """Seconds of writing, with waiting for the disk at the end of each file."""
    _places: dict[str, _Shard] = field(init=False, repr=False, default_factory=dict)
    _specs: dict[str, TensorSpec] = field(init=False, repr=False, default_factory=dict)
    _open: list[_Shard] = field(init=False, repr=False, default_factory=list)

    def __enter__(self) -> Self:
        """Write the headers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for number, specs in enumerate(self.shards, start=1):
                self._begin(self.folder / _shard_name(number, len(self.shards)), specs)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, or after an exception close what is open."""
        if kind is not None or self._open:
            unfinished = [shard.path.name for shard in self._open]
            self._abandon()
            if kind is None:
                message = f"the data of {', '.join(unfinished)} was not written completely"
                raise RuntimeError(message)
            return
        if len(self.shards) > 1:
            self._write_index()
        sync_folder(self.folder)

    @property
    def size(self) -> int:
        """Bytes of data of all tensors."""
        return sum(spec.size for spec in self._specs.values())

    def spec(self, name: str) -> TensorSpec:
        """Return a tensor's description."""
        return self._specs[name]

    def write(self, name: str, data: NDArray[Any], first: int = 0) -> None:
        """Write a tensor, or its rows from `first` on. Each row is written exactly once, in any order."""
        spec, shard = self._specs[name], self._places[name]
        if data.dtype != DTYPES[spec.dtype] or data.shape[1:] != spec.shape[1:]:
            message = f"{spec}: cannot take rows of {data.dtype} {list(data.shape)}"
            raise ValueError(message)
        begin = shard.begins[name] + first * spec.row_bytes
        if begin + data.nbytes > shard.begins[name] + spec.size:
            message = f"{spec}: {len(data)} rows from row {first} on are more than it has"
            raise ValueError(message)
        started = time.monotonic()
        with _full_disk_named(shard, name):
            _write_all(shard.descriptor, np.ascontiguousarray(data).reshape(-1).view(np.uint8), begin)
        shard.missing -= data.nbytes
        shard.kept += data.nbytes
        if shard.missing == 0:
            self._complete(shard)
        elif shard.kept >= _DROP_EVERY:  # starts to write dirty pages, and releases clean ones
            give_back(shard.descriptor, 0, 0)
            shard.kept = 0
        self.seconds += time.monotonic() - started

    def _begin(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        start, begins = header.build(specs)
        descriptor = os.open(_partial(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        shard = _Shard(path, begins, sum(spec.size for spec in specs), descriptor)
        self._open.append(shard)
        self._places.update(dict.fromkeys(begins, shard))
        self._specs.update({spec.name: spec for spec in specs})
        _write_all(descriptor, np.frombuffer(start, np.uint8), 0)
        if shard.missing == 0:
            self._complete(shard)

    def _complete(self, shard: _Shard) -> None:
        with _full_disk_named(shard, "the end of the file"):
            os.fsync(shard.descriptor)
        give_back(shard.descriptor, 0, 0)  # 0 bytes: to the end
        os.close(shard.descriptor)
        self._open.remove(shard)
        shard.partial.rename(shard.path)

    def _abandon(self) -> None:
        while self._open:
            os.close(self._open.pop().descriptor)

    def _write_index(self) -> None:
        places = {name: self._places[name].path.name for name in sorted(self._places, key=natural)}
        write_json(self.folder / INDEX, {"metadata": {"total_size": self.size}, "weight_map": places})


@contextmanager
def _full_disk_named(shard: _Shard, what: str) -> Iterator[None]:
    """Name what was being written when the disk became full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{shard.path}: no space is left on the disk for {what}"
        hint = "Free disk space, or put the output elsewhere; what was written is not used."
        raise DiskFullError(message, hint=hint) from error


def _shard_name(number: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _write_all(descriptor: int, data: NDArray[np.uint8], begin: int) -> None:
    view = data.data
    while view:
        count = os.pwrite(descriptor, view, begin)
        view, begin = view[count:], begin + count
