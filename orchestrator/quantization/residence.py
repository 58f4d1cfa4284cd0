"""Moves the weights of a layer into and out of the memory where it runs.

On a processor they are mapped from the file. The pages are the only copy, none of them is the process's own, and the
kernel may take them back. A layer is read before it is used, so that a read fault is an error and not a signal, and
it is released after use. On a GPU they and the results are copied through a few buffers of pinned memory, each way by a
stream of its own, so that copies do not wait for the layer that runs.
"""

from __future__ import annotations

import mmap
import queue
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from orchestrator.quantization.files import give_back, opened
from orchestrator.quantization.formats.e2m1 import Numbers
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.pipeline import AtOnce, WriteBehind
from orchestrator.quantization.tensors import DTYPES, is_in_order
from orchestrator.quantization.torch_arrays import as_array, as_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from orchestrator.quantization.pipeline import Encoding
    from orchestrator.quantization.plan import Plan
    from orchestrator.quantization.torch_types import CudaEvent, CudaStream, Dtype, Tensor, Torch
    from orchestrator.quantization.writer import CheckpointWriter

_PIECE = 4_000_000
"""Bytes that a processor works on at a time."""
BUFFER = 32 << 20
"""Bytes of one buffer of pinned memory."""
BUFFERS = 4
"""Buffers for each direction."""

TORCH_TYPES = {name: kind.name for name, kind in DTYPES.items()}
"""By the name in a header."""


class Residence(Protocol[Numbers]):
    """The memory of a processor or GPU."""

    def take_in(self, names: Sequence[str]) -> dict[str, Numbers]:
        """Return tensors by name, in the plan's types: arrays, or tensors of torch.

        Raises:
            CheckpointError: Some of it cannot be read.
        """

    def let_go(self, names: Sequence[str]) -> None:
        """Release the inputs. Nothing refers to them any more."""

    def pieces(self, tensor: Numbers) -> Iterator[tuple[int, Numbers]]:
        """Split a tensor into runs of rows: the first row, and the rows."""

    def put_out(self, name: str, rows: Numbers | NDArray[Any], first: int = 0) -> None:
        """Write a tensor, or its rows from `first` on, a little later. The caller may release them at once."""

    def encoding(self, *, beside: bool) -> Encoding:
        """Return what encodes layers: with `beside`, on a GPU, a thread beside the one that runs them."""

    def wait(self) -> None:
        """Wait for all that this thread gave the device to do."""


@dataclass
class OnProcessor:
    """Tensors are arrays over mapped files."""

    plan: Plan
    writer: CheckpointWriter
    behind: WriteBehind
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict)

    def take_in(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Residence`."""
        passing = np.empty(_PIECE, np.uint8)
        for name in filter(self._is_mapped, names):
            size = self.plan.checkpoint.tensors[name].size
            for begin in range(0, size, _PIECE):
                self.plan.checkpoint.fill(name, begin, passing[: min(_PIECE, size - begin)], again=True)
        return {name: self._mapped(name).astype(DTYPES[self.plan.types[name]], copy=False) for name in names}

    def let_go(self, names: Sequence[str]) -> None:
        """See `Residence`."""
        for name in filter(self._is_mapped, names):
            tensor = self.plan.checkpoint.tensors[name]
            first = -(-tensor.begin // mmap.PAGESIZE) * mmap.PAGESIZE
            whole = (tensor.begin + tensor.size) // mmap.PAGESIZE * mmap.PAGESIZE - first
            if whole > 0 and tensor.file in self._maps:
                self._maps[tensor.file].madvise(mmap.MADV_DONTNEED, first, whole)
            with opened(tensor.file) as descriptor:
                give_back(descriptor, tensor.begin, tensor.size)

    def pieces(self, tensor: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """See `Residence`."""
        return _runs(tensor, _PIECE)

    def put_out(self, name: str, rows: NDArray[Any], first: int = 0) -> None:
        """See `Residence`."""
        kept = np.array(rows) if rows.base is not None else rows  # mapped pages are released before the write
        self.behind.do(partial(self.writer.write, name, kept, first))

    def encoding(self, *, beside: bool) -> Encoding:  # noqa: ARG002 - both would share the processors
        """See `Residence`."""
        return AtOnce()

    def wait(self) -> None:
        """See `Residence`."""

    def _is_mapped(self, name: str) -> bool:
        tensor = self.plan.checkpoint.tensors[name]
        aligned = tensor.begin % DTYPES[tensor.dtype].itemsize == 0
        return tensor.size > 0 and aligned and is_in_order(tensor)

    def _mapped(self, name: str) -> NDArray[Any]:
        tensor = self.plan.checkpoint.tensors[name]
        if not self._is_mapped(name):
            return self.plan.checkpoint.read(name)
        if tensor.file not in self._maps:
            with opened(tensor.file) as descriptor:
                self._maps[tensor.file] = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        count = tensor.size // DTYPES[tensor.dtype].itemsize
        flat = np.frombuffer(self._maps[tensor.file], DTYPES[tensor.dtype], count, tensor.begin)
        return flat.reshape(tensor.shape)


@dataclass
class OnGpu:
    """Tensors are torch's, on one device."""

    plan: Plan
    writer: CheckpointWriter
    behind: WriteBehind
    torch: Torch
    device: str
    _way_in: queue.SimpleQueue[tuple[Tensor, CudaEvent]] = field(default_factory=queue.SimpleQueue)
    _way_out: queue.SimpleQueue[Tensor] = field(default_factory=queue.SimpleQueue)
    _stream: CudaStream = field(init=False)

    def __post_init__(self) -> None:
        """Pin the buffers."""
        self._stream = self.torch.cuda.Stream(self.device)
        for _ in range(BUFFERS):
            self._way_in.put((self._buffer(), self.torch.cuda.Event()))
            self._way_out.put(self._buffer())

    def _buffer(self) -> Tensor:
        return self.torch.empty(BUFFER, dtype=self.torch.uint8, pin_memory=True)

    def take_in(self, names: Sequence[str]) -> dict[str, Tensor]:
        """See `Residence`. Everything has been copied when this returns.

        The memory belongs to the stream of the copies: torch gives it to no other work, and a tensor is released when
        the layer that used it has run and was encoded. So a copy waits for nothing.
        """
        with self.torch.cuda.stream(self._stream):
            found = {name: self._read(name) for name in names}
            taken = {name: tensor.to(_torch_type(self.torch, self.plan.types[name])) for name, tensor in found.items()}
            self._stream.synchronize()
        return taken

    def _read(self, name: str) -> Tensor:
        tensor = self.plan.checkpoint.tensors[name]
        kind = _torch_type(self.torch, tensor.dtype)
        if not is_in_order(tensor):
            return as_tensor(self.plan.checkpoint.read(name), self.device)
        found = self.torch.empty(tensor.shape, dtype=kind, device=self.device)
        target = found.reshape(-1).view(self.torch.uint8)
        for begin in range(0, target.numel(), BUFFER):
            count = min(BUFFER, target.numel() - begin)
            buffer, free = self._way_in.get()
            try:
                free.synchronize()
                self.plan.checkpoint.fill(name, begin, buffer.numpy()[:count])
                target[begin : begin + count].copy_(buffer[:count], non_blocking=True)
                free.record(self._stream)
            finally:
                self._way_in.put((buffer, free))
        return found

    def let_go(self, names: Sequence[str]) -> None:
        """See `Residence`: torch releases a tensor without references."""

    def pieces(self, tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
        """See `Residence`: an encoded piece fits a buffer."""
        return _runs(tensor, BUFFER)

    def put_out(self, name: str, rows: Tensor | NDArray[Any], first: int = 0) -> None:
        """See `Residence`."""
        if isinstance(rows, np.ndarray):
            self.behind.do(partial(self.writer.write, name, rows, first))
            return
        flat = rows.contiguous().reshape(-1).view(self.torch.uint8)
        kind = DTYPES[self.writer.spec(name).dtype]
        if flat.numel() > BUFFER:  # one row is
            self.behind.do(partial(self.writer.write, name, as_array(rows), first))
            return
        buffer = self._way_out.get()
        buffer[: flat.numel()].copy_(flat)
        array = buffer.numpy()[: flat.numel()].view(kind).reshape(tuple(rows.shape))
        self.behind.do(partial(self.writer.write, name, array, first), finally_=partial(self._way_out.put, buffer))

    def encoding(self, *, beside: bool) -> Encoding:
        """See `Residence`."""
        if not beside:
            return AtOnce()
        stream = self.torch.cuda.Stream(self.device)
        return WriteBehind(1, "encode", partial(self.torch.cuda.stream, stream))

    def wait(self) -> None:
        """See `Residence`."""
        self.torch.cuda.current_stream(self.device).synchronize()


def residence(plan: Plan, writer: CheckpointWriter, behind: WriteBehind, device: str) -> Residence[Any]:
    """Create the residence for a device, as torch names it."""
    if device == "cpu":
        return OnProcessor(plan, writer, behind)
    return OnGpu(plan, writer, behind, load_torch(), device)


def _runs(tensor: Numbers, size: int) -> Iterator[tuple[int, Numbers]]:
    if not tensor.shape:
        yield 0, tensor
        return
    step = max(1, size // max(1, tensor.nbytes // max(1, tensor.shape[0])))
    for first in range(0, tensor.shape[0], step):
        yield first, tensor[first : first + step]


def _torch_type(torch: Torch, name: str) -> Dtype:
    kind: Dtype = getattr(torch, TORCH_TYPES[name])
    return kind
