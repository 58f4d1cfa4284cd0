"""Starts one command that must not outlive the orchestrator: `python launcher.py PID COMMAND…`.

The command runs in a process group of its own. The group is killed if the orchestrator
(process PID) ends, if it sends SIGQUIT, and if the command has ended and left children behind. SIGTERM and
SIGINT are forwarded to the group. The launcher ends like the command: with its status, or by its signal.

It imports only the standard library, so that it starts in a few milliseconds with `python -I -S`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
NOT_EXECUTABLE = 126
NOT_FOUND = 127
"""A shell's status for a missing command."""


def die_with(parent: int, how: signal.Signals) -> bool:
    """Make the kernel send us a signal when our parent ends; False if it has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, how.value, 0, 0, 0)
    return os.getppid() == parent


def become(command: list[str]) -> int:
    """Replace this process by the command. Returns only if that fails."""
    try:
        os.execvp(command[0], command)  # noqa: S606 - an argument list, as everywhere
    except (FileNotFoundError, NotADirectoryError):
        os.write(2, f"{command[0]}: no such program\n".encode())
        return NOT_FOUND
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        return NOT_EXECUTABLE


def supervise(orchestrator: int, command: int) -> int:
    """Wait for the command and forward signals. Return the status of `os.waitpid`."""

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
    return launch(int(arguments[0]), partial(become, arguments[1:]))


def launch(orchestrator: int, command: Callable[[], int]) -> int:
    """Run a command in a child, and end like it; returns its exit status.

    Args:
        orchestrator: The number of our parent.
        command: What the child does. It returns the exit status.
    """
    launcher = os.getpid()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if not die_with(launcher, signal.SIGKILL):
            os._exit(1)
        os._exit(command())
    with suppress(PermissionError, ProcessLookupError):  # if it is past its exec, hence past its own setpgid
        os.setpgid(child, child)  # in both processes, because either may be first
    code = os.waitstatus_to_exitcode(supervise(orchestrator, child))
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command left its core; ours is of no use
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(launcher, -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
