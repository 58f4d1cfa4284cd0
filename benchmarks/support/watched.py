"""Run a program and see what it takes: time, processor, memory, and bytes that came from the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]

_SECONDS_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True)
class Run:
    """What one process took."""

    seconds: float
    processor_seconds: float = 0
    """Of all its threads; unlike the time it does not grow when others use the machine."""
    anonymous_bytes: int = 0
    """The most memory of its own at any look, fifty times a second: without files that it has mapped."""
    resident_bytes: int = 0
    """The most memory at all, as the kernel counts it: with files that it has mapped. (What it says when a process has
    ended counts the memory of its parent.)"""
    read_bytes: int = 0
    """What was read from the disk for it."""
    printed: str = ""


def watch(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Run:
    """Run a program to its end; where it fails, so does this one, with what it complained of."""
    found = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": found, "HF_HUB_OFFLINE": "1", **(environment or {})}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=variables)
        run = _watched(process.pid, started)
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if run is None:
        sys.exit(f"{' '.join(map(str, command))}: failed\n{printed[-4000:]}")
    return replace(run, printed=printed)


def _watched(process: int, started: float) -> Run | None:
    anonymous = resident = read = 0
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        anonymous = max(anonymous, _field(process, "status", "RssAnon:") * 1024)
        resident = max(resident, _field(process, "status", "VmHWM:") * 1024)
        read = max(read, _field(process, "io", "read_bytes:"))
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    seconds = time.perf_counter() - started
    read = max(read, _field(process, "io", "read_bytes:"))
    _, status, usage = os.wait4(process, 0)
    if status:
        return None
    return Run(seconds, usage.ru_utime + usage.ru_stime, anonymous, resident, read)


def forget(folder: Path) -> None:
    """Empty the page cache of a model's weights."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _field(process: int, file: str, name: str) -> int:
    with suppress(OSError):  # it ended between two looks
        for line in Path(f"/proc/{process}/{file}").read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
