"""Defines the settings of a pass over a model's layers: device, memory and saved state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.values import frozen

if TYPE_CHECKING:
    from pathlib import Path


@frozen
class WalkSettings:
    """Nothing here changes a byte of the result on one machine."""

    device: str = "cpu"
    """As torch names it."""
    memory: int | None = None
    """The budget in bytes; None: the available memory."""
    spill: bool = False
    """Keep hidden states in a file even if memory is sufficient."""
    scratch: Path | None = None
    """Folder of the saved state, to continue from there; None: start over after an interruption."""
    seconds_between_notes: float = 60
