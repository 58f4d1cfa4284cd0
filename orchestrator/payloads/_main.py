"""Runs every payload: each ending becomes an exit status, and a reason for the orchestrator."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from orchestrator.errors import OrchestratorError, from_os_error
from orchestrator.events import Failure, to_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


def run(payload: Callable[[], None]) -> int:
    """Run a payload and return its exit status.

    A known failure is written to standard output as an event, anything unexpected to standard error as a traceback with
    status 1. SIGTERM unwinds like an exception, so that what a payload started is stopped; the status is then 143.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _status(payload)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _status(payload: Callable[[], None]) -> int:
    try:
        payload()
    except OrchestratorError as error:
        return _report(error)
    except OSError as error:
        known = from_os_error(error, "working")
        if known is None:
            traceback.print_exc(file=sys.stderr)
            return 1
        return _report(known)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception:  # noqa: BLE001 - the last handler: a defect, shown in full
        traceback.print_exc(file=sys.stderr)
        return 1
    return 0


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler
    raise SystemExit(128 + number)


def _report(error: OrchestratorError) -> int:
    print(to_line(Failure(error.code, error.message, error.hint)), flush=True)
    return error.exit_status
