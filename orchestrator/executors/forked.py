"""Runs a module of ours in a fork of this process, which has loaded part of it: a job starts two Pythons less.

Only a process without other threads may fork itself. The child has the same files, signals and supervision as a command
of `launcher.py`, and no open file of its parent besides. Its memory counts what its parent had loaded.
"""

from __future__ import annotations

import gc
import io
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from orchestrator.executors import launcher

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGQUIT)
_MODULE = 3
"""Words of `python -m MODULE`."""
_LOADER = os.getpid()
"""The process that loaded this module."""
_COLLECTED = (700, 10, 10)
"""Python's own thresholds of its garbage collection."""


def is_fork() -> bool:
    """Tell whether this process is a fork: that of a job, which nothing else shares."""
    return os.getpid() != _LOADER


def can_fork(command: Sequence[str]) -> bool:
    """Tell whether a command is a module of ours on this Python, and this process has one thread."""
    is_ours = command[:2] == (sys.executable, "-m") and command[2:_MODULE] and command[2].startswith("orchestrator.")
    return bool(is_ours) and len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - counts, reads no names


class Forked:
    """A running module. It has what `ProcessExecutor` uses of `subprocess.Popen`."""

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        """Start it.

        Args:
            command: `python -m MODULE ARGUMENTS…`.
            folder: Its working directory.
            variables: All of its environment.
        """
        reader, writer = os.pipe()
        self.stdout: BinaryIO = os.fdopen(reader, "rb", buffering=0)
        self.returncode: int | None = None
        before, parent = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS), os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _detach(writer, folder)
                os._exit(launcher.launch(parent, partial(_run, command, variables)))
            except BaseException:  # noqa: BLE001 - nothing of the parent's stack may run here
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        """Begin to follow."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the end."""
        self.stdout.close()
        self.wait()

    def poll(self) -> int | None:
        """Return how it ended as `subprocess` does; None if it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end, and return how it ended."""
        code = self._wait(0)
        assert code is not None  # noqa: S101 - it has ended
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to its supervisor if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _wait(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _detach(writer: int, folder: Path) -> None:
    """Give the child files, a session and signals of its own."""
    os.setsid()
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a lock of the parent must not outlive it here
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the module as Python does; returns its exit status."""
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = list(command[_MODULE - 1 :])
    gc.freeze()
    gc.set_threshold(*_COLLECTED)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that events arrive when they are written
    try:
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
        status: object = 0
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        status = 1
    if status is not None and not isinstance(status, int):
        sys.stderr.write(f"{status}\n")
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status or 0
