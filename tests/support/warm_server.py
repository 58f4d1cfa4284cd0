"""Run programs in forks of a process that has imported large libraries: `warm_server.py PROCESS SOCKET LIBRARY …`.

A request is a line of JSON: `arguments` as after `python`, `environment`, `folder`, and the files `output` and
`errors`. The answer is the exit status. The server ends with the process of that number, and removes the folder of its
socket. As soon as it answers, there is a file `ready` beside the socket.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import shutil
import socketserver
import sys
import threading
import traceback
from pathlib import Path


class _Run(socketserver.StreamRequestHandler):
    """Runs one program in this process, which is a fork of the server."""

    def handle(self) -> None:
        asked = json.loads(self.rfile.readline())
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        for descriptor, file in ((1, asked["output"]), (2, asked["errors"])):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        status = _status(asked["arguments"])
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - what an interpreter does at its end
        atexit._run_exitfuncs()  # noqa: SLF001
        sys.stdout.flush()
        sys.stderr.flush()
        self.wfile.write(b"%d\n" % status)


def _status(arguments: list[str]) -> int:
    try:
        _run(arguments)
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)  # noqa: T201 - as Python does
            return 1
        return ending.code or 0
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        return 1
    return 0


def _run(arguments: list[str]) -> None:
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - of a test
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


class _Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    def service_actions(self) -> None:
        super().service_actions()
        if not Path("/proc", sys.argv[1]).exists():
            shutil.rmtree(Path(sys.argv[2]).parent)
            os._exit(0)


if __name__ == "__main__":
    for name in sys.argv[3:]:
        importlib.import_module(name)
    with _Server(sys.argv[2], _Run) as server:
        Path(sys.argv[2]).with_name("ready").touch()
        server.serve_forever()
