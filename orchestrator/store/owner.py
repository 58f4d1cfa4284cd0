"""Names the process that owns something, so that another process can check whether the owner still runs."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

_PROC = Path("/proc")
_START_TIME = 19
"""Index of `starttime` in /proc/PID/stat, counted after the parenthesised name (proc(5))."""


def this_process() -> str:
    """Name this process as `boot@host:pid:start`. A process number alone is used again, and again after a reboot.

    The host's name is a digest, so that the owner can be a part of a file's name.
    """
    return f"{_boot()}@{_host()}:{os.getpid()}:{_start(os.getpid())}"


def is_running(owner: str) -> bool:
    """Return whether the process still runs; true if this machine cannot tell, as for a process of another host."""
    place, _, rest = owner.partition(":")
    boot, _, host = place.partition("@")
    pid, _, start = rest.partition(":")
    if not pid.isdecimal() or not _PROC.is_dir() or host not in ("", _host()):
        return True
    return boot == _boot() and start == _start(int(pid))


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start(pid: int) -> str:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[_START_TIME]
