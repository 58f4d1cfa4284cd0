"""Shows a running build on standard error: fixed lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from orchestrator import events
from orchestrator.catalog.schedulers import SCHEDULERS
from orchestrator.cli.rate import Rate
from orchestrator.units import in_bytes, in_time

if TYPE_CHECKING:
    from orchestrator.cli.screen import Screen

_EVERY = 60.0
"""Seconds between two lines of progress in a log."""
_PARTS = 4
"""Number of active files that are shown, each on a line."""
_SHORTEST_BAR, _LONGEST_BAR = 8, 40
_MINUTE, _HOUR = 60, 3600


class Display:
    """Prints lines on standard error, above those of a screen if there is one."""

    def __init__(self, screen: Screen | None = None) -> None:
        """Show on a screen, or on plain lines."""
        self._screen = screen

    def __enter__(self) -> Self:
        """Start to show."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the terminal."""
        if self._screen:
            self._screen.close()

    def _say(self, line: str) -> None:
        if self._screen:
            self._screen.say(line)
        else:
            click.echo(line, err=True)


class BuildView(Display):
    """An observer that shows a build."""

    def __init__(self, *, verbose: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """Show on standard error.

        Args:
            verbose: Show every line that the steps write.
            clock: Returns seconds.
        """
        super().__init__()
        self._terminal = is_terminal()
        self._verbose = verbose
        self._clock = clock
        self._last = 0.0
        self._running: RunningStep | None = None

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
            case events.StepDone():
                self._show(None)
                self._say(line_of(event))
            case events.StepReused() | events.Waiting() | events.Warned() | events.Failure():
                self._say(line_of(event))
            case events.Checked() | events.Spent() | events.MemoryUsed() | events.StepReached() | events.StepStopped():
                pass  # for a build's record only

    def _begin(self, event: events.StepStarted) -> None:
        if event.adopted:
            what = "job" if event.executor in SCHEDULERS else "container"
            self._say(f"… {event.step}: its {what} was left by an earlier build; adopted")
            return
        self._last = self._clock()
        self._show(RunningStep(event.step, self._last))
        if not self._terminal:
            self._say(f"▸ {event.step} ({event.executor})")

    def _progress(self, event: events.Progress) -> None:
        now = self._clock()
        if self._running is not None:
            self._running.see(event, now)
        if not self._terminal and self._running is not None and now - self._last >= _EVERY:
            self._last = now
            self._say(f"  {', '.join(self._running.facts(now))}: {event.note}".removesuffix(": "))

    def _log(self, text: str) -> None:
        if self._verbose:
            self._say(f"  {text}")

    def _publishing(self, event: events.Publishing) -> None:
        if event.found:
            self._say(f"… {event.step}: an earlier build had finished it; publishing it")
        elif self._running is not None:
            self._show(RunningStep(event.step, self._running.started, "hashing"))

    def _show(self, running: RunningStep | None) -> None:
        """Update the display. The first step that runs on a terminal creates the screen."""
        self._running = running
        if self._terminal and running and self._screen is None:
            from orchestrator.cli.screen import Screen  # noqa: PLC0415 - if every step is reused, nothing is drawn

            self._screen = Screen(self._lines)
        if self._screen:
            self._screen.draw()

    def _lines(self, width: int) -> Iterable[str]:
        return self._running.lines(self._clock(), width) if self._running else ()


def is_terminal() -> bool:
    """Tell whether lines can stay in place on standard error. `TTY_COMPATIBLE` overrides this, as with rich."""
    return {"0": False, "1": True}.get(os.environ.get("TTY_COMPATIBLE", ""), sys.stderr.isatty())


class RunningStep:
    """The step that runs."""

    def __init__(self, step: str, started: float, doing: str = "") -> None:
        self.started = started
        self._step = step
        self._doing = doing
        self._pace = Rate()
        self._whole: events.Progress | None = None
        self._parts: dict[str, events.Progress] = {}

    def see(self, event: events.Progress, now: float) -> None:
        """Take its progress."""
        self._pace.see(now, event.done)
        self._whole = event
        if event.part:
            self._parts.pop(event.part, None)
            if event.part_done < event.part_total:
                self._parts[event.part] = event

    def facts(self, now: float) -> Iterator[str]:
        """Format how much is done, the rate and the remaining time, as far as they are known."""
        whole = self._whole
        if whole is None:
            yield self._doing or "started"
            return
        yield amount_of(whole)
        if whole.total:
            yield _percent(whole.done, whole.total)
        rate, left = self._pace.rate(now), self._pace.left(now, whole.total)
        if rate and whole.unit == "bytes":
            yield f"{in_bytes(rate)}/s"
        if left is not None:
            yield f"{_about(left)} left"

    def lines(self, now: float, width: int) -> Iterator[str]:
        """Draw it with as many lines as there are facts, each at most as wide as the terminal."""
        amount, *rest = self.facts(now)
        share = self._whole.done / self._whole.total if self._whole and self._whole.total else None
        yield _with_bar(self._step, amount, share, width)
        yield _joined((*rest, f"{_about(now - self.started)} so far"), width)
        for name in sorted(self._parts)[:_PARTS]:
            part = self._parts[name]
            percent = f" {_percent(part.part_done, part.part_total):>5}"
            yield f"  {_cropped(name, width - len(percent) - 2)}{percent}"


def _with_bar(step: str, amount: str, share: float | None, width: int) -> str:
    """Put a bar between a step and its amount if the line is wide enough."""
    columns = min(_LONGEST_BAR, width - len(step) - len(amount) - 2)
    if share is None or columns < _SHORTEST_BAR:
        return f"{step} {amount}"
    filled = round(columns * min(share, 1.0))
    return f"{step} {'━' * filled}{'─' * (columns - filled)} {amount}"


def _joined(facts: Iterable[str], width: int) -> str:
    """Put as many facts on a line as fit, the most important first."""
    line = ""
    for fact in facts:
        longer = f"{line} · {fact}" if line else f"  {fact}"
        if len(longer) > width:
            break
        line = longer
    return line


def _cropped(name: str, width: int) -> str:
    """Shorten a name at its beginning, because files of one model differ at the end."""
    return name if len(name) <= width else f"…{name[len(name) - max(width, 1) + 1 :]}"


def _percent(done: int, total: int) -> str:
    return f"{100 * done // total if total else 100} %"


def _about(seconds: float) -> str:
    """Round an uncertain time, so that it does not flicker."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"


def amount_of(event: events.Progress) -> str:
    """Format a progress."""
    if event.unit == "bytes":
        return f"{in_bytes(event.done)} of {in_bytes(event.total)}" if event.total else in_bytes(event.done)
    return f"{event.done} of {event.total} {event.unit}" if event.total else f"{event.done} {event.unit}"


def line_of(event: events.StepDone | events.StepReused | events.Waiting | events.Warned | events.Failure) -> str:
    """Format one of the events that stay on the screen."""
    match event:
        case events.StepDone(step=step, seconds=seconds, bytes_out=size):
            return f"✓ {step}: {in_bytes(size)} in {in_time(seconds)}"
        case events.StepReused(step=step, bytes_out=size):
            return f"✓ {step}: reused, {in_bytes(size)}"
        case events.Waiting(step=step, reason=reason):
            return f"… {step}: {reason}; waiting"
        case events.Warned(message):
            return f"! {message}"
        case events.Failure(message=message):
            return f"✗ {message}"
