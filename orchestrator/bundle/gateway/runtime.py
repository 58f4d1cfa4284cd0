"""Starts, monitors and stops the runtime's process with all its children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from enum import StrEnum

import aiohttp

from .errors import MachineError
from .logs import Log
from .settings import RUNTIME_STOP_SECONDS
from .silence import Silence
from .starting import RuntimeKind

_LAST_LINES = 40
"""Lines that are shown again when it ends."""
_MAX_LINE = 8192
"""Bytes. A longer line is broken up."""
_MAX_UNANSWERED = 3
"""Number of unanswered health checks after which a ready server counts as not ready."""
_POLL_STARTING = 0.25
_POLL_READY = 2.0


class State(StrEnum):
    """The state of the runtime, as the gateway knows it."""

    STARTING = "starting"
    READY = "ready"
    UNRESPONSIVE = "unresponsive"
    """It was ready and no longer answers."""
    DEAD = "dead"
    """It runs, but its engine has ended; only a restart helps."""
    HUNG = "hung"
    """It has given no sign for too long; only a restart helps."""
    ENDED = "ended"


class Runtime:
    """One run of the runtime.

    Args:
        command: Its command line.
        environment: Its variables.
        kind: Its module.
        url: Its address: `http://127.0.0.1:8001`.
        log: Gets its lines.
        health_seconds: Seconds within which it must answer a health check.
        silence: Measures for how long it gives no sign.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        kind: RuntimeKind,
        url: str,
        log: Log,
        *,
        health_seconds: float,
        silence: Silence,
    ) -> None:
        self.url = url
        self.silence = silence
        self.state = State.STARTING
        self.model: str | None = None
        """Its name of the model; known once it is ready."""
        self.status: int | None = None
        """Its exit status, once it ended."""
        self._kind = kind
        self._command = tuple(command)
        self._environment = dict(environment)
        self._log = log
        self._timeout = aiohttp.ClientTimeout(health_seconds)
        self._tail: deque[str] = deque(maxlen=_LAST_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._ended = asyncio.Event()
        self._failed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_answer = ""
        self._status: int | None = None
        """Of the last health check."""
        self._patterns = tuple(re.compile(pattern) for pattern in kind.KERNELS)
        self._kernels: dict[str, None] = {}

    @property
    def reason(self) -> str:
        """Return why it is not ready."""
        match self.state:
            case State.STARTING:
                return f"{self._kind.PROGRAM} is starting" + (f": {self._last_answer}" if self._last_answer else "")
            case State.UNRESPONSIVE:
                return f"{self._kind.PROGRAM} no longer answers: {self._last_answer}"
            case State.HUNG:
                return f"{self._kind.PROGRAM} hangs: no sign for {self.silence.seconds:.0f} s, while an answer was due"
            case State.DEAD:
                return f"the engine of {self._kind.PROGRAM} is dead: {self._last_answer}"
            case State.ENDED:
                return f"{self._kind.PROGRAM} ended with status {self.status}"
            case State.READY:
                return ""

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that its log names, in the order of their first line."""
        return tuple(self._kernels)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The end of its output."""
        return tuple(self._tail)

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Start it and monitor it.

        Raises:
            MachineError: The program is missing.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # its workers are stopped with it, and a terminal's Ctrl-C reaches us alone
            )
        except OSError as error:
            message = f"cannot start {self._command[0]}: {error.strerror}"
            raise MachineError(message) from error
        self._spawn(self._monitor_process())
        self._spawn(self._monitor_health(session))

    async def wait_failed(self) -> None:
        """Wait until it ended, by itself or stopped, or hangs."""
        await self._failed.wait()

    async def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL after ten seconds, for its whole process group."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUNTIME_STOP_SECONDS):
                await self._ended.wait()
        self._signal(signal.SIGKILL)  # also its remaining children
        await self._ended.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None  # noqa: S101 - started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _monitor_process(self) -> None:
        assert self._process is not None  # noqa: S101 - started
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        reading = asyncio.create_task(self._read_lines(self._process.stdout))
        status = await self._process.wait()
        with contextlib.suppress(TimeoutError):  # a worker that lives on may hold the pipe open
            async with asyncio.timeout(1.0):
                await asyncio.shield(reading)
        reading.cancel()
        self.status = status
        self.state = State.ENDED
        self._ended.set()
        self._failed.set()

    async def _read_lines(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            while len(rest) > _MAX_LINE:
                lines.append(rest[:_MAX_LINE])
                rest = rest[_MAX_LINE:]
            for line in lines:
                self._take_line(line)
        self._take_line(rest)

    def _take_line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            self._tail.append(text)
            self._log.runtime(text, self._kind.PROGRAM)
            for found in filter(None, (pattern.search(text) for pattern in self._patterns)):
                self._kernels[found[1]] = None

    async def _monitor_health(self, session: aiohttp.ClientSession) -> None:
        unanswered = 0
        while self.state not in {State.ENDED, State.HUNG, State.DEAD}:
            healthy = await self._is_healthy(session)
            if self._ended.is_set():
                return
            if healthy:
                unanswered = 0
                await self._set_ready(session)
            else:
                unanswered += 1
            if self.model is not None:
                self.silence.note_health(answered=healthy)
            if self.model is not None and self._status in self._kind.DEAD:
                self.state = State.DEAD
                self._failed.set()
            elif self.silence.is_too_long:
                self.state = State.HUNG
                self._failed.set()
            if self.state is State.READY and unanswered >= _MAX_UNANSWERED:
                self.state = State.UNRESPONSIVE
                self._log.error("not ready", reason=self.reason)
            settled = self.state is State.READY and not unanswered
            await asyncio.sleep(_POLL_READY if settled else _POLL_STARTING)

    async def _set_ready(self, session: aiohttp.ClientSession) -> None:
        if self.model is None:
            self.model = await self._request_model_name(session)
        if self.model is not None and self.state is not State.READY:
            self.state = State.READY
            self._log.info("ready", model=self.model, kernels="; ".join(self._kernels) or None)

    async def _is_healthy(self, session: aiohttp.ClientSession) -> bool:
        """Check its health. Older versions refuse connections while they load, newer ones answer 503."""
        try:
            async with session.get(f"{self.url}/health", timeout=self._timeout) as answer:
                self._status = answer.status
                self._last_answer = f"its health check has status {answer.status}"
                return answer.status == 200  # noqa: PLR2004 - HTTP
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._status = None
            self._last_answer = "it does not listen" if self.state is State.STARTING else type(error).__name__
            return False

    async def _request_model_name(self, session: aiohttp.ClientSession) -> str | None:
        try:
            async with session.get(f"{self.url}/v1/models", timeout=self._timeout) as answer:
                document = await answer.json(content_type=None)
            return str(document["data"][0]["id"])
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError, TypeError) as error:
            self._last_answer = f"its list of models cannot be read ({type(error).__name__})"
            return None
