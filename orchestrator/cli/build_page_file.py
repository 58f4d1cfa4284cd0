"""Writes the page of builds, and keeps it up to date while one runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.app.build_story import plan_quietly, tell
from orchestrator.app.journal import Journal
from orchestrator.app.make_plan import Plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.cli.options import write_page
from orchestrator.errors import MachineError
from orchestrator.events import Event, Observer, Publishing, StepDone, StepReused, StepStarted
from orchestrator.store import owner


def write_build_page(settings: Settings, journals: Sequence[Journal], file: Path) -> None:
    """Write one page of the newest builds of some recipes."""
    _write(settings, [(journal, plan_quietly(settings, RecipeName(journal.recipe))) for journal in journals], file)


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
    planned = plan_quietly(settings, recipe, overrides)

    def write() -> None:
        journal = Journal.read(settings.store.root, recipe.name)
        if journal and journal.owner == owner.this_process():
            _write(settings, [(journal, planned)], file)

    def follow(event: Event) -> None:
        observer(event)
        if isinstance(event, StepStarted | Publishing | StepReused | StepDone):
            with suppress(MachineError):
                write()

    try:
        yield follow
    finally:
        write()


def _write(settings: Settings, builds: Sequence[tuple[Journal, Plan | None]], file: Path) -> None:
    from orchestrator.pages.build_page import build_page  # noqa: PLC0415 - only for a page

    write_page(file, build_page([tell(settings, journal, planned) for journal, planned in builds]))
