"""Defines the events of a starting server as values. The command line decides how they look."""

from __future__ import annotations

from typing import Protocol

from orchestrator.events import Event
from orchestrator.values import frozen


@frozen
class Phase:
    """The current action or wait."""

    what: str
    """`image`, `container` or `server`."""
    text: str
    """`building`, `loading`, …"""
    seconds: float = 0.0
    """Seconds so far."""
    limit: float = 0.0
    """Most seconds it may take; 0: unknown."""
    detail: str = ""
    """The last message."""


@frozen
class Done:
    """The result."""

    what: str
    text: str


class Observer(Protocol):
    """Receives events. It must not raise."""

    def __call__(self, event: Event | Phase | Done) -> None:
        """Take one event."""
