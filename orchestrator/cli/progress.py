"""How a running build looks: bars on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from orchestrator import events
from orchestrator.cli.text import in_bytes, in_time

_EVERY = 60.0
"""Seconds between two lines of progress in a log."""


class BuildView:
    """An observer that shows a build."""

    def __init__(self, *, verbose: bool = False) -> None:
        """Show on standard error.

        Args:
            verbose: Show every line that the steps write.
        """
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal
        self._verbose = verbose
        self._last = 0.0
        self._task: TaskID | None = None
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, complete_style="cyan"),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        match event:
            case events.StepStarted():
                self._begin(event)
            case events.Progress():
                self._progress(event)
            case events.LogLine(text):
                self._log(text)
            case events.Publishing():
                self._publishing(event)
            case events.StepDone(step=step, seconds=seconds, bytes_out=size):
                self._end_bar()
                self._say(f"✓ {step}: {in_bytes(size)} in {in_time(seconds)}")
            case events.StepReused(step=step, bytes_out=size):
                self._say(f"✓ {step}: reused, {in_bytes(size)}")
            case events.Waiting(step=step, reason=reason):
                self._say(f"… {step}: {reason}; waiting")
            case events.Warned(message):
                self._say(f"! {message}")
            case events.Failure(message=message):
                self._say(f"✗ {message}")

    def _begin(self, event: events.StepStarted) -> None:
        if event.adopted:
            self._say(f"… {event.step}: its container was left by an earlier build; adopted")
            return
        self._last = time.monotonic()
        self._end_bar()
        if self._live:
            self._task = self._bars.add_task(escape(event.step), total=None, amount="")
        else:
            self._say(f"▸ {event.step} ({event.executor})")

    def _progress(self, event: events.Progress) -> None:
        amount = _amount(event)
        if self._task is not None:
            self._bars.update(self._task, completed=event.done, total=event.total or None, amount=amount)
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            self._say(f"  {amount} {event.note}")

    def _log(self, text: str) -> None:
        if self._verbose:
            self._say(f"  {text}")

    def _publishing(self, event: events.Publishing) -> None:
        if event.found:
            self._say(f"… {event.step}: an earlier build had made it; publishing it")
        elif self._task is not None:
            self._bars.update(self._task, total=None, amount="hashing")

    def _end_bar(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def _say(self, line: str) -> None:
        self._console.print(escape(line))


def _amount(event: events.Progress) -> str:
    if event.unit == "bytes":
        return f"{in_bytes(event.done)} of {in_bytes(event.total)}" if event.total else in_bytes(event.done)
    return f"{event.done} of {event.total} {event.unit}" if event.total else f"{event.done} {event.unit}"
