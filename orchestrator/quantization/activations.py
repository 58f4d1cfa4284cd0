"""Keeps hidden states in a file, one tensor for each batch, if they are too large for memory."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.quantization.files import give_back
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.torch_arrays import as_array
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.quantization.torch_types import Dtype, HiddenStates, Tensor


def hidden_states(device: str, *, spill: bool, folder: Path | None) -> HiddenStates:
    """Create the list for hidden states.

    Args:
        device: The device for the tensors, as torch names it.
        spill: Whether they are kept in a file.
        folder: The folder of the file; by default the system's temporary folder.
    """
    return Spilled(device, folder or Path(tempfile.gettempdir())) if spill else []


@frozen
class _Place:
    begin: int
    shape: tuple[int, ...]
    kind: Dtype
    size: int


@dataclass(eq=False)
class Spilled:
    """A list of torch tensors that are read when they are taken, and written when they are set.

    The file has no name and is removed when this process ends. A tensor that replaces another must have its shape.
    """

    device: str
    folder: Path
    _places: list[_Place] = field(default_factory=list)
    _descriptor: int = -1

    def __post_init__(self) -> None:
        """Create the file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            self._descriptor = os.dup(file.fileno())

    def __del__(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def clear(self) -> None:
        """Remove all tensors without reading them."""
        self._places.clear()

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._places)

    def append(self, value: Tensor) -> None:
        """Append a tensor."""
        begin = self._places[-1].begin + self._places[-1].size if self._places else 0
        self._places.append(_Place(begin, tuple(value.shape), value.dtype, value.nbytes))
        self._write(self._places[-1], value)

    def extend(self, values: Iterable[Tensor]) -> None:
        """Append tensors, one at a time."""
        for value in values:
            self.append(value)

    def __iter__(self) -> Iterator[Tensor]:
        """Read all tensors, one at a time."""
        return (self[batch] for batch in range(len(self)))

    def __getitem__(self, batch: int) -> Tensor:
        """Read a tensor."""
        place = self._places[batch]
        data = np.empty(place.size, np.uint8)
        filled = 0
        while filled < place.size:
            count = os.preadv(self._descriptor, [data[filled:].data], place.begin + filled)
            if not count:
                message = "the file of the hidden states became shorter"
                raise OSError(message)
            filled += count
        give_back(self._descriptor, place.begin, place.size)
        return load_torch().from_numpy(data).view(place.kind).reshape(place.shape).to(self.device)

    def __setitem__(self, batch: int, value: Tensor) -> None:
        """Replace a tensor."""
        place = self._places[batch]
        if (tuple(value.shape), value.dtype) != (place.shape, place.kind):
            message = f"a tensor of {value.dtype} {list(value.shape)} in the place of {place.kind} {list(place.shape)}"
            raise ValueError(message)
        self._write(place, value)

    def _write(self, place: _Place, value: Tensor) -> None:
        data = as_array(value).reshape(-1).view(np.uint8)
        written = 0
        while written < place.size:
            written += os.pwrite(self._descriptor, data[written:].data, place.begin + written)
        give_back(self._descriptor, place.begin, place.size)
