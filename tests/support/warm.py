"""Interpreters that import large libraries once, and run each program in a fork.

To import torch, transformers and ModelOpt takes longer than most tests that need them. All processes of a run of the
tests share an interpreter, which ends with the run.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("warm_server.py")
_STARTED: list[subprocess.Popen[bytes]] = []
"""Interpreters that this process started. They may outlive it, and end with the run."""


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int
    output: str
    errors: str


@dataclass(frozen=True)
class WarmPython:
    """An interpreter with libraries."""

    folder: Path

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], where: Path | None = None) -> Done:
        """Run a program as `python ARGUMENTS` would, in a folder, by default the one of this process."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            output, errors = Path(folder) / "output", Path(folder) / "errors"
            asked = {"arguments": list(arguments), "environment": dict(environment), "folder": str(where or Path.cwd())}
            with closing(socket.socket(socket.AF_UNIX)) as connection:
                connection.connect(str(self.folder / "socket"))
                with connection.makefile("rwb") as stream:
                    stream.write(json.dumps(asked | {"output": str(output), "errors": str(errors)}).encode() + b"\n")
                    stream.flush()
                    answer = stream.readline()
            texts = (file.read_text(errors="replace") if file.exists() else "" for file in (output, errors))
            return Done(int(answer) if answer else -1, *texts)


@functools.cache
def warm_python(python: Path, libraries: tuple[str, ...], variables: tuple[tuple[str, str], ...]) -> WarmPython:
    """Start an interpreter, or take the one that this run of the tests has started.

    Args:
        python: The interpreter.
        libraries: The modules to import.
        variables: The environment variables that matter to an import.
    """
    run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    kind = hashlib.sha256(repr((python, libraries, variables)).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"warm-{run}-{kind}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            command = [str(python), str(_SCRIPT), str(run), str(folder / "socket"), *libraries]
            _STARTED.append(subprocess.Popen(command, env={**os.environ, **dict(variables)}, stdout=subprocess.DEVNULL))
            _await(_STARTED[-1], folder)
    return WarmPython(folder)


def _await(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the libraries are imported."""
    while not (folder / "ready").exists():
        if process.poll() is not None:
            shutil.rmtree(folder)
            message = f"the interpreter with the libraries ended with status {process.returncode}"
            raise AssertionError(message)
        time.sleep(0.05)
