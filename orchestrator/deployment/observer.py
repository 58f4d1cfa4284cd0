"""What happens while a server comes up, as values; the command line decides how it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from orchestrator.events import Event


@dataclass(frozen=True)
class Phase:
    """What is being done, or waited for."""

    what: str
    """`image`, `container` or `server`."""
    text: str
    """`building`, `loading`, …"""
    seconds: float = 0.0
    """For how long so far."""
    limit: float = 0.0
    """How long it may take; 0: nobody knows."""
    detail: str = ""
    """What it said last."""


@dataclass(frozen=True)
class Done:
    """What was reached."""

    what: str
    text: str


class Observer(Protocol):
    """Whoever wants to know; must not raise."""

    def __call__(self, event: Event | Phase | Done) -> None:
        """Take one event."""
