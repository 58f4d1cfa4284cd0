"""Follows the builds of a batch on a cluster, each in a thread: they only wait, and a process each costs a start."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator

from orchestrator.app.batch import Member
from orchestrator.app.batch_run import Start
from orchestrator.app.record import written_to
from orchestrator.errors import OrchestratorError
from orchestrator.events import Observer
from orchestrator.executors.job import AbortCheck

Follow = Callable[[Member, Observer, AbortCheck], None]
"""Builds a member, and reports to the observer. A KeyboardInterrupt of the abort check works as Ctrl-C does."""

_INTERRUPTED = 130


def start_threads(follow: Follow) -> Start:
    """Return what starts a build in a thread of this process."""
    return lambda member: _Thread(member, follow)


def _lines_of(descriptor: int) -> Iterator[bytes]:
    with os.fdopen(descriptor, "rb") as stream:
        yield from stream


class _Thread:
    """One build. It fulfils `batch_run.Process`: its events are lines of a pipe, as those of a process are."""

    def __init__(self, member: Member, follow: Follow) -> None:
        reader, self._writer = os.pipe()
        self.stdout: Iterable[bytes] = _lines_of(reader)
        self._member, self._follow = member, follow
        self._interrupted = threading.Event()
        self._status = 1
        self._thread = threading.Thread(target=self._run, name=member.recipe.name, daemon=True)
        self._thread.start()

    def wait(self) -> int:
        """Wait for its end, and return the exit status that its command would have."""
        self._thread.join()
        return self._status

    def send_signal(self, _number: int, /) -> None:
        """Interrupt it."""
        self._interrupted.set()

    def _run(self) -> None:
        try:
            with written_to(self._writer) as observer:
                self._follow(self._member, observer, self._check)
            self._status = 0
        except OrchestratorError as error:
            self._status = error.exit_status
        except KeyboardInterrupt:
            self._status = _INTERRUPTED
        finally:
            os.close(self._writer)

    def _check(self) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt
