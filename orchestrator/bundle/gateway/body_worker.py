"""Checks large bodies in a process of its own, one at a time, so that health is answered meanwhile.

Python's JSON holds the interpreter while it reads: a body of 16 MiB can take seconds, and thirty times its size. The
process has a limit of memory. It is started for the first large body and ends when no other waits, which gives its
memory back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .bodies import BodyRules, prepare_body
from .refusals import RefusedError, refuse

LARGE = 1 << 17
"""Bytes from which a body is checked here. A smaller one takes a few milliseconds."""
_LINE = 1 << 16
_TIMES, _BESIDES = 12, 1 << 26
"""What reading and renaming text takes, by the size of the body; and bytes for Python itself."""
_MODULE = __spec__.name
_PYTHONPATH = str(Path(__file__).resolve().parents[_MODULE.count(".")])


class BodyWorker:
    """Checks bodies: small ones at once, large ones in a process of its own.

    Args:
        largest: Bytes of the largest body, which decide how much memory the process may take.
    """

    def __init__(self, largest: int) -> None:
        self.started = 0
        """Processes that were started."""
        self._memory = _TIMES * largest + _BESIDES
        self._waiting = 0
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def prepare(self, path: str, body: bytes, rules: BodyRules) -> bytes:
        """Check a body and replace the model's name.

        Raises:
            RefusedError: The body is refused, or cannot be checked.
        """
        if len(body) < LARGE:
            return prepare_body(path, body, rules)
        self._waiting += 1
        try:
            async with self._turn:
                return await self._ask(path, body, rules)
        finally:
            self._waiting -= 1
            if not self._waiting:
                await self.close()

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    async def _ask(self, path: str, body: bytes, rules: BodyRules) -> bytes:
        head = {"path": path, "size": len(body), "rules": dataclasses.asdict(rules)}
        try:
            reader, writer = await self._streams()
            writer.write(json.dumps(head).encode() + b"\n")
            writer.write(body)
            await writer.drain()
            answer = json.loads(await reader.readline())
            content = await reader.readexactly(answer["size"]) if "size" in answer else body
        except (OSError, asyncio.IncompleteReadError, ValueError):
            await self.close()
            refuse(503, "The body could not be checked; memory may be short.", code="body_not_checked", retry_after=5)
        except BaseException:
            await self.close()  # the client left in the middle of an exchange
            raise
        if "refused" in answer:
            refuse(**answer["refused"])
        return content

    async def _streams(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                _MODULE,
                str(self._memory),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": _PYTHONPATH, "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
            self.started += 1
        process = self._process
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes
        return process.stdout, process.stdin


def answer_all(source: BinaryIO, target: BinaryIO) -> None:
    """Check bodies until the source ends: a line of JSON and the body; back come a line of JSON and a changed body."""
    while line := source.readline():
        head = json.loads(line)
        body = source.read(head["size"])
        rules = BodyRules(**{**head["rules"], "served": tuple(head["rules"]["served"])})
        answer, content = _answer(head["path"], body, rules)
        target.write(json.dumps(answer).encode() + b"\n")
        target.write(content)
        target.flush()


def _answer(path: str, body: bytes, rules: BodyRules) -> tuple[dict[str, object], bytes]:
    try:
        content = prepare_body(path, body, rules)
    except RefusedError as refused:
        return {"refused": {"status": refused.status, "message": refused.message, "code": refused.code}}, b""
    except MemoryError:
        message = "The body has too many values: reading it takes too much memory."
        return {"refused": {"status": 413, "message": message, "code": "body_too_complex"}}, b""
    return ({}, b"") if content is body else ({"size": len(content)}, content)


if __name__ == "__main__":
    gc.disable()  # JSON has no cycles, and looking for them takes most of the time
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
    answer_all(sys.stdin.buffer, sys.stdout.buffer)
