"""Interpreters that import large libraries once, and run each program in a fork.

To import torch, transformers and ModelOpt takes longer than most tests that need them.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("warm_server.py")


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int
    output: str
    errors: str


@dataclass(frozen=True)
class WarmPython:
    """An interpreter with libraries."""

    process: subprocess.Popen[bytes]
    folder: Path

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Done:
        """Run a program as `python ARGUMENTS` would."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            output, errors = Path(folder) / "output", Path(folder) / "errors"
            asked = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
            with closing(self._connect()) as connection, connection.makefile("rwb") as stream:
                stream.write(json.dumps(asked | {"output": str(output), "errors": str(errors)}).encode() + b"\n")
                stream.flush()
                answer = stream.readline()
            texts = (file.read_text(errors="replace") if file.exists() else "" for file in (output, errors))
            return Done(int(answer) if answer else -1, *texts)

    def _connect(self) -> socket.socket:
        """Connect, as soon as the libraries are imported."""
        while self.process.poll() is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.folder / "socket"))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                time.sleep(0.05)
            else:
                return connection
        message = f"the interpreter with the libraries ended with status {self.process.returncode}"
        raise AssertionError(message)


@functools.cache
def warm_python(python: Path, libraries: tuple[str, ...], variables: tuple[tuple[str, str], ...]) -> WarmPython:
    """Start an interpreter, or take the one that this process has started.

    Args:
        python: The interpreter.
        libraries: The modules to import.
        variables: The environment variables that matter to an import.
    """
    holder = tempfile.TemporaryDirectory(prefix="warm-")
    command = [str(python), str(_SCRIPT), str(Path(holder.name) / "socket"), *libraries]
    process = subprocess.Popen(command, env={**os.environ, **dict(variables)}, stdout=subprocess.DEVNULL)
    atexit.register(holder.cleanup)
    atexit.register(process.kill)
    return WarmPython(process, Path(holder.name))
