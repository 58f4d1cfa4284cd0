"""Starts one command and sees to it that nothing of it outlives the orchestrator: `python launcher.py PID COMMAND…`.

It stands between the two. The command runs in a process group of its own; the group is killed when the orchestrator
(process PID) is gone, when it asks with SIGQUIT, and when the command has ended and left children behind. SIGTERM and
SIGINT are handed on to the group. It ends as the command ended: with its status, or by the signal that ended it.

It imports nothing but the standard library, so that it starts in a few milliseconds with `python -I -S`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
NOT_EXECUTABLE = 126
NOT_FOUND = 127
"""What a shell answers for a command that is not there; here as well."""


def die_with(parent: int, how: signal.Signals) -> bool:
    """Have the kernel send us a signal when our parent ends; False where it is already gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, how.value, 0, 0, 0)
    return os.getppid() == parent


def become(command: list[str]) -> int:
    """Replace this process by the command; returns only where that is not possible."""
    try:
        os.execvp(command[0], command)  # noqa: S606 - an argument list, as everywhere
    except (FileNotFoundError, NotADirectoryError):
        os.write(2, f"{command[0]}: no such program\n".encode())
        return NOT_FOUND
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        return NOT_EXECUTABLE


def supervise(orchestrator: int, command: int) -> int:
    """Wait for the command and hand signals on; returns the status as `os.waitpid` gives it."""

    def hand_on(number: int, _frame: FrameType | None) -> None:
        lost = os.getppid() != orchestrator
        os.killpg(command, signal.SIGKILL if lost or number == signal.SIGQUIT else number)

    _on_signals(hand_on)
    if not die_with(orchestrator, signal.SIGTERM):
        os.killpg(command, signal.SIGKILL)
    os.waitid(os.P_PID, command, os.WEXITED | os.WNOWAIT)  # not reaped yet: the group's number cannot be reused
    os.killpg(command, signal.SIGKILL)
    _on_signals(signal.SIG_IGN)
    return os.waitpid(command, 0)[1]


def _on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    orchestrator, command = int(arguments[0]), arguments[1:]
    launcher = os.getpid()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if not die_with(launcher, signal.SIGKILL):
            os._exit(1)
        os._exit(become(command))
    with suppress(PermissionError, ProcessLookupError):  # where it is past its exec, hence past its own setpgid
        os.setpgid(child, child)  # in both processes: whichever comes first
    code = os.waitstatus_to_exitcode(supervise(orchestrator, child))
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command left its core, ours tells nobody anything
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(launcher, -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
