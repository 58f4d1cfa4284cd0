"""Names the files of a job's folder, the only thing that the machine of a build and a compute node share.

job.sh     the request: Slurm's script, or
job.yaml   the manifest of a Kubernetes job; without a request the job is given up and does nothing
job        the number that the scheduler gave it
private    values of secret variables, only for the user
lock       held by the job that runs the command
beat       touched by the job every few seconds while the command runs
submitting held by an orchestrator that looks for the job or submits it
ending     written by the job when its command has ended; the truth about it, whatever the scheduler says
slurm.txt  the output of Slurm's script itself
log.txt    the output of the command
out/       the output folder
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from orchestrator.values import frozen

_REQUESTS = ("job.sh", "job.yaml")
_RESERVED = 4096
"""Bytes that are reserved for the ending, so that a full disk cannot prevent it."""


@frozen
class Ending:
    """How a job's command ended, as the job itself recorded it."""

    exit_status: int
    killed: bool = False
    """Another process ended it by a signal."""
    out_of_memory: bool = False
    """It was killed for lack of memory."""
    time_limit: bool = False
    """It was stopped shortly before the time limit."""
    code: str = ""
    """The code of the machine's fault, if the machine was at fault."""
    message: str = ""
    hint: str = ""


@frozen
class JobFolder:
    """The folder of one job."""

    path: Path

    def is_requested(self) -> bool:
        """Tell whether the job was submitted and not given up."""
        return any((self.path / name).exists() for name in _REQUESTS)

    @property
    def output(self) -> Path:
        """The output folder of the command."""
        return self.path / "out"

    @property
    def log(self) -> Path:
        """The output of the command."""
        return self.path / "log.txt"

    @contextmanager
    def alone(self, name: str = "lock") -> Iterator[None]:
        """Hold a lock of the folder, also against processes of other nodes.

        Raises:
            FileNotFoundError: The folder is gone.
        """
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def is_free(self) -> bool:
        """Tell whether no job holds the lock."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def beat(self) -> None:
        """Show that the command runs."""
        (self.path / "beat").touch()

    def last_beat(self) -> int | None:
        """Return when the file was touched, only to see a change; None if the command has not started."""
        try:
            return (self.path / "beat").stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def ending(self) -> Ending | None:
        """Read how the command ended; None if it has not ended."""
        try:
            return Ending(**json.loads((self.path / "ending").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def reserve_ending(self) -> None:
        """Take the disk space of the ending before the command starts."""
        self._new_ending.write_text(" " * _RESERVED, encoding="utf-8")

    def write_ending(self, ending: Ending) -> None:
        """Record how the command ended, in the reserved space."""
        short = {**asdict(ending), "message": ending.message[:2000], "hint": ending.hint[:500]}
        with self._new_ending.open("r+", encoding="utf-8") as stream:
            stream.write(json.dumps(short))
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
        self._new_ending.replace(self.path / "ending")

    @property
    def _new_ending(self) -> Path:
        return self.path / "ending.new"

    def number(self) -> str | None:
        """Read the number of the submitted job; None if there is none."""
        try:
            return (self.path / "job").read_text(encoding="ascii") or None
        except FileNotFoundError:
            return None

    def write_number(self, number: str) -> None:
        """Record the number of the submitted job."""
        (self.path / "job").write_text(number, encoding="ascii")

    def write_private(self, values: Mapping[str, str]) -> None:
        """Write the values of secret variables into a file that only the user can read."""
        file = self.path / "private"
        file.unlink(missing_ok=True)
        if values:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
                json.dump(dict(values), stream)

    def private(self) -> dict[str, str]:
        """Read the values of secret variables."""
        try:
            return dict(json.loads((self.path / "private").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def clear(self) -> None:
        """Remove everything except the output and the log. A job that starts later does nothing."""
        for name in (*_REQUESTS, "private", "job", "beat", "ending.new", "ending", "slurm.txt"):
            (self.path / name).unlink(missing_ok=True)
