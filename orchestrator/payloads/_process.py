"""Runs the commands that follow a payload's own options, each with all processes that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SECONDS_TO_STOP = 30.0


def split(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Split a payload's arguments at each bare `--`: its own options, then the commands."""
    parts: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            parts.append([])
        else:
            parts[-1].append(argument)
    return parts[0], parts[1:]


@contextmanager
def running(
    command: Sequence[str], log: BinaryIO | None = None, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own, so that the workers it starts are stopped with it.

    Args:
        command: The program and its arguments.
        log: Gets everything that they write; by default this process's own output does.
        variables: Further ones than those of this process.

    Raises:
        OSError: It cannot be started.
    """
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        env={**os.environ, **variables},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate the command and all it started; kill whatever is left after a while."""
    try:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_STOP)
    finally:  # also after another signal, and for workers that outlive their parent
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
