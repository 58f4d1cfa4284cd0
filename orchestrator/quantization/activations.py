"""Keeps hidden states in a file, one tensor for each batch, if they are too large for memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.quantization.files import give_back


def flowing(torch: Any, device: str, *, spill: bool, folder: Path | None) -> MutableSequence[Any]:  # noqa: ANN401 - the library
    """Create the list for hidden states.

    Args:
        torch: The library.
        device: The device for the tensors, as torch names it.
        spill: Whether they are kept in a file.
        folder: The folder of the file; by default the system's temporary folder.
    """
    return Spilled(torch, device, folder or Path(tempfile.gettempdir())) if spill else []


@dataclass(frozen=True)
class _Place:
    begin: int
    shape: tuple[int, ...]
    kind: Any
    """As torch names it."""
    size: int


@dataclass(eq=False)
class Spilled(MutableSequence[Any]):
    """A list of torch tensors that are read when they are taken, and written when they are set.

    The file has no name and is removed when this process ends. A tensor that replaces another must have its shape.
    """

    torch: Any
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

    def insert(self, index: int, value: Any) -> None:  # noqa: ANN401 - a tensor
        """Append a tensor."""
        if index != len(self):
            message = "only the end takes another tensor"
            raise IndexError(message)
        begin = self._places[-1].begin + self._places[-1].size if self._places else 0
        self._places.append(_Place(begin, tuple(value.shape), value.dtype, value.nbytes))
        self._write(self._places[-1], value)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - a number; a tensor
        """Read a tensor."""
        place = self._places[index]
        data = np.empty(place.size, np.uint8)
        filled = 0
        while filled < place.size:
            count = os.preadv(self._descriptor, [data[filled:].data], place.begin + filled)
            if not count:
                message = "the file of what flows between layers became shorter"
                raise OSError(message)
            filled += count
        give_back(self._descriptor, place.begin, place.size)
        return self.torch.from_numpy(data).view(place.kind).reshape(place.shape).to(self.device)

    def __setitem__(self, index: Any, value: Any) -> None:  # noqa: ANN401 - a number; a tensor
        """Replace a tensor."""
        place = self._places[index]
        if (tuple(value.shape), value.dtype) != (place.shape, place.kind):
            message = f"a tensor of {value.dtype} {list(value.shape)} in the place of {place.kind} {list(place.shape)}"
            raise ValueError(message)
        self._write(place, value)

    def __delitem__(self, index: Any) -> None:  # noqa: ANN401 - all of them
        """Remove tensors from an index on, or the last."""
        del self._places[index]

    def _write(self, place: _Place, value: Any) -> None:  # noqa: ANN401 - a tensor
        data = value.contiguous().reshape(-1).view(self.torch.uint8).cpu().numpy()
        written = 0
        while written < place.size:
            written += os.pwrite(self._descriptor, data[written:].data, place.begin + written)
        give_back(self._descriptor, place.begin, place.size)
