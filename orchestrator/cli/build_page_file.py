"""Writes the page of builds, and keeps it up to date while one runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Self

from orchestrator.app.batch import Member
from orchestrator.app.make_plan import Plan
from orchestrator.app.planning import plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.record import Record
from orchestrator.app.settings import Settings
from orchestrator.cli.options import write_page
from orchestrator.errors import MachineError, OrchestratorError
from orchestrator.events import Event, MemoryUsed, Observer, Publishing, StepDone, StepReused, StepStarted
from orchestrator.store import owner

_SHOWN = (StepStarted, MemoryUsed, Publishing, StepReused, StepDone)
"""Events that change a page."""
_SECONDS = 1.0
"""Between two pages of several builds."""


def write_build_page(settings: Settings, records: Sequence[Record], file: Path) -> None:
    """Write one page of the newest builds of some recipes."""
    _write(settings, [(record, _plan_quietly(settings, RecipeName(record.recipe))) for record in records], file)


@contextmanager
def with_page(
    settings: Settings, recipe: RecipeName, overrides: Sequence[str], file: Path | None, observer: Observer
) -> Iterator[Observer]:
    """Keep the page of this process's build up to date in a block, and write its end.

    A page that cannot be written does not end the build; that it cannot is told at the end.

    Args:
        settings: The folders.
        recipe: What is built in the block.
        overrides: `KEY=VALUE` each.
        file: The page; None: write none.
        observer: Gets every event first.
    """
    if file is None:
        yield observer
        return
    planned = _plan_quietly(settings, recipe, overrides)

    def write() -> None:
        record = Record.read(settings.store.root, recipe.name)
        if record and record.owner == owner.this_process():
            _write(settings, [(record, planned)], file)

    def follow(event: Event) -> None:
        observer(event)
        if isinstance(event, _SHOWN):
            with suppress(MachineError):
                write()

    try:
        yield follow
    finally:
        write()


class BatchPage(AbstractContextManager["BatchPage"]):
    """Keeps the page of several builds up to date in a block, and writes its end.

    A thread writes it, because the page of many builds takes a while, and events come often.

    Args:
        settings: The folders.
        file: The page; None: write none.
        recipes: What is built in the block, in the order of the builds.
    """

    def __init__(self, settings: Settings, file: Path | None, recipes: Sequence[str]) -> None:
        self._settings = settings
        self._file = file
        self._recipes = recipes
        self._plans: dict[str, Plan] = {}
        self._changed, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        """Begin to follow."""
        if self._file:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the end."""
        if self._file:
            self._ended.set()
            self._thread.join()
            self.write(follows=False)

    def __call__(self, member: Member, event: Event) -> None:
        """Note an event of a build."""
        if isinstance(event, _SHOWN):
            self._plans[member.recipe.name] = member.plan
            self._changed.set()

    def write(self, *, follows: bool) -> None:
        """Write the builds that have begun."""
        records = [record for name in self._recipes if name in self._plans and (record := self._record(name))]
        if self._file and records:
            begun = {record.recipe for record in records}
            builds = [(record, self._plans[record.recipe]) for record in records]
            waiting = [name for name in self._recipes if name not in begun] if follows else []
            _write(self._settings, builds, self._file, follows=follows, waiting=waiting)

    def _record(self, name: str) -> Record | None:
        return Record.read(self._settings.store.root, name)

    def _follow(self) -> None:
        while not self._ended.wait(_SECONDS):
            if self._changed.is_set():
                self._changed.clear()
                with suppress(MachineError):
                    self.write(follows=True)


def _write(
    settings: Settings,
    builds: Sequence[tuple[Record, Plan | None]],
    file: Path,
    *,
    follows: bool = False,
    waiting: Sequence[str] = (),
) -> None:
    from orchestrator.app.build_story import tell  # noqa: PLC0415 - only for a page
    from orchestrator.pages.build_page import build_page  # noqa: PLC0415 - as above

    stories = [tell(settings, record, planned) for record, planned in builds]
    write_page(file, build_page(stories, follows=follows, waiting=waiting))


def _plan_quietly(settings: Settings, recipe: RecipeName, overrides: Sequence[str] = ()) -> Plan | None:
    """Plan a recipe; None if that is not possible any more."""
    try:
        return plan(settings, recipe, overrides).plan
    except OrchestratorError:
        return None
