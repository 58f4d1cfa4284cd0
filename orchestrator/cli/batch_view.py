"""Shows builds that run at once: a line for each on a terminal, and above them what has happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from orchestrator import events
from orchestrator.app.batch import Member
from orchestrator.cli.build_view import Display, RunningStep, is_terminal, line_of
from orchestrator.cli.screen import Screen


class BatchView(Display):
    """Shows the events of several builds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Show on standard error.

        Args:
            clock: Returns seconds.
        """
        self._clock = clock
        self._running: dict[str, RunningStep] = {}
        super().__init__(Screen(self._lines) if is_terminal() else None)

    def __call__(self, member: Member, event: events.Event) -> None:
        """Show one event of a build."""
        name = member.recipe.name
        match event:
            case events.StepStarted():
                self._running[name] = RunningStep(f"{name} {event.step}", self._clock())
                if not self._screen:
                    self._say(f"▸ {name}: {event.step} ({event.executor})")
            case events.Progress():
                if name in self._running:
                    self._running[name].see(event, self._clock())
            case events.StepDone() | events.StepReused():
                self._running.pop(name, None)
                self._say(f"{name}: {line_of(event)}")
            case events.Waiting() | events.Warned() | events.Failure():
                self._say(f"{name}: {line_of(event)}")
            case (
                events.LogLine()
                | events.MemoryUsed()
                | events.Publishing()
                | events.Checked()
                | events.Spent()
                | events.StepReached()
                | events.StepStopped()
            ):
                pass  # each build's own log has them

    def _lines(self, width: int) -> Iterable[str]:
        now = self._clock()
        for running in tuple(self._running.values()):
            yield next(iter(running.lines(now, width)))
