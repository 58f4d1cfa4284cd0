"""Overlaps reading, running and encoding the layers of a model, with a bounded number of them in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from orchestrator.quantization.pipeline import ReadAhead


@dataclass
class Layers:
    """Yields layers in order, and reads the next ones meanwhile in another thread.

    It is a context manager and is iterated once. A layer counts as in memory from the start of its reading until
    `let_go`, which any thread may call. A read error is raised where that layer is taken.
    """

    numbers: Sequence[int]
    read: Callable[[int], dict[str, Any]]
    """Returns a layer's tensors by name. The caller empties the dictionary before `let_go`."""
    most: int
    """Layers in memory at a time: 1 reads a layer when the one before was let go."""
    _free: threading.Semaphore = field(init=False)
    _ended: bool = False
    _ahead: ReadAhead[tuple[int, dict[str, Any]]] = field(init=False)

    def __post_init__(self) -> None:
        """Prepare. Nothing is read before the block is entered."""
        self._free = threading.Semaphore(max(1, self.most - 1))
        self._ahead = ReadAhead(self._read(), self.most)

    def __enter__(self) -> Self:
        """Start to read."""
        self._ahead.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop after the layer that is being read."""
        self._ended = True
        self._free.release()
        self._ahead.__exit__(*error)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number and the tensors of each layer. Until then one layer fewer is read, beside the embedding."""
        if self.most > 1:
            self._free.release()
        return iter(self._ahead)

    def let_go(self) -> None:
        """Make place for another layer."""
        self._free.release()

    def _read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in self.numbers:
            self._free.acquire()
            if self._ended:
                return
            yield number, self.read(number)
