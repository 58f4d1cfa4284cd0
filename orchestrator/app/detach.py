"""Starts a build in a session of its own, so that it outlives the terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from orchestrator.app.record import Record
from orchestrator.app.settings import Settings
from orchestrator.errors import machine_faults
from orchestrator.values import frozen

_STARTS_WITHIN = 60.0
"""Seconds within which a build has resolved its commits and started its record."""
_POLL = 0.05


@frozen
class Detached:
    """A build in another process."""

    process: int
    log: Path
    """What it wrote to standard error."""
    status: int | None = None
    """Its exit status if it has ended."""


def log_file(settings: Settings, recipe: str) -> Path:
    """Return the file of what a build in another process writes to standard error."""
    return settings.store.root / "runs" / f"{recipe}.log"


def start_detached(settings: Settings, recipe: str, arguments: list[str]) -> Detached:
    """Start the same command without its `--detach`, and wait until it has started its record or ended.

    Args:
        settings: The settings with the store.
        recipe: The recipe, which exists.
        arguments: The command line.
    """
    settings.store.make()
    log = log_file(settings, recipe)
    command = [argument for argument in arguments if argument != "--detach"]
    with machine_faults("writing to the store"):
        log.parent.mkdir(parents=True, exist_ok=True)
        stream = log.open("wb")
    with stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    deadline = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < deadline:
        status = process.poll()
        record = Record.read(settings.store.root, recipe)
        if status is not None or (record and record.process == process.pid):
            return Detached(process.pid, log, status)
        time.sleep(_POLL)
    return Detached(process.pid, log)
