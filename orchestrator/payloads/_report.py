"""Reports a payload's progress to its executor."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orchestrator.events import Checked, Event, Progress, Spent, Warned, to_line

_SECONDS_BETWEEN_REPORTS = 0.1


@dataclass
class Reporter:
    """An observer that writes events to standard output; progress ten times a second at most, and always the last."""

    last: float = float("-inf")

    def __call__(self, event: Event) -> None:
        """Write an event, or drop it because another was written just now."""
        if isinstance(event, Warned | Checked | Spent):
            print(to_line(event), flush=True)
        if not isinstance(event, Progress):
            return
        now = time.monotonic()
        ended = event.done == event.total or (event.part and event.part_done == event.part_total)
        if ended or now - self.last >= _SECONDS_BETWEEN_REPORTS:
            self.last = now
            print(to_line(event), flush=True)
