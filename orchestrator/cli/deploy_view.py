"""Shows a deployment on standard error: one moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from orchestrator import events
from orchestrator.deployment.observer import Done, Phase
from orchestrator.units import in_bytes, in_time

_EVERY = 30.0
"""Seconds between two lines of the same phase in a log."""
_LONGEST_DETAIL = 60
"""Characters of the server's last line."""


class DeployView:
    """An observer that shows a deployment."""

    def __init__(self, *, verbose: bool = False) -> None:
        """Show on standard error.

        Args:
            verbose: Show every line that Docker writes while it builds.
        """
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._verbose = verbose
        self._status: Status | None = None
        self._shown: tuple[str, str] = ("", "")
        self._last = 0.0

    def __enter__(self) -> Self:
        """Start to show."""
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: events.Event | Phase | Done) -> None:
        """Show one event."""
        match event:
            case Phase():
                self._phase(event)
            case Done(what, text):
                self._say(f"✓ {what}: {text}")
            case events.Progress():
                total = f" of {in_bytes(event.total)}" if event.total else ""
                what = event.note.partition(":")[0]  # the next file is no news in a log
                self._move((what, "progress"), f"{event.note}: {in_bytes(event.done)}{total}")
            case events.LogLine(text) if self._verbose:
                self._say(f"  {text}")
            case events.LogLine(text) if text.startswith("Step "):
                self._move(("image", "building"), f"image: building, {text[0].lower()}{text[1:]}")
            case events.Warned(message):
                self._say(f"! {message}")
            case _:
                pass

    def _phase(self, phase: Phase) -> None:
        since = f" for {in_time(phase.seconds)}" if phase.seconds >= 1 else ""
        limit = f" of at most {in_time(phase.limit)}" if phase.limit and since else ""
        detail = f" · {phase.detail[:_LONGEST_DETAIL]}" if phase.detail else ""
        self._move((phase.what, phase.text), f"{phase.what}: {phase.text}{since}{limit}{detail}")

    def _move(self, key: tuple[str, str], line: str) -> None:
        """Show the progress: at once on a terminal; in a log if it changed, or after a while."""
        if self._status is not None:
            self._status.update(escape(line))
        elif key != self._shown or time.monotonic() - self._last >= _EVERY:
            self._shown, self._last = key, time.monotonic()
            self._say(f"▸ {line}")

    def _say(self, line: str) -> None:
        self._console.print(escape(line))
