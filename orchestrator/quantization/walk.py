"""How to walk over the layers of a model that runs: where, in how much memory, and noting how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class WalkSettings:
    """Nothing here changes a byte of the result on one machine."""

    device: str = "cpu"
    """As torch names it."""
    memory: int | None = None
    """Bytes that may be used; None: what the machine has available."""
    spill: bool = False
    """Keep what flows between layers in a file even where memory would do."""
    scratch: Path | None = None
    """Where to note how far it is, to go on from there; None: start over after an interruption."""
    seconds_between_notes: float = 60
