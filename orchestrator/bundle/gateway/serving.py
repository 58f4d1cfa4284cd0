"""Runs `nim-serve`: listens, starts trtllm-serve, and stops both in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from .connections import Door
from .documents import Documents
from .engine import Engine
from .errors import EngineEndedError, MachineError
from .gateway import Gateway
from .keys import KeyRing
from .launch import Launch, write_config
from .logs import Log
from .settings import Settings
from .tls import Certificates
from .traces import Traces, make_traces

_KEEP_ALIVE = 2.0
"""Seconds for which a connection to trtllm-serve is kept: uvicorn closes idle ones after five."""
_CONNECT_SECONDS = 10.0
_TRACES_SECONDS = 5.0


@dataclass(frozen=True)
class _Running:
    """What a running server is made of."""

    gateway: Gateway
    engine: Engine
    keys: KeyRing | None
    certificates: Certificates | None


async def serve(
    settings: Settings, documents: Documents, launch: Launch, environment: Mapping[str, str], log: Log
) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        EngineEndedError: trtllm-serve ended by itself.
        MachineError: A port is taken, or a program missing.
        DocumentError: Keys or certificates cannot be read.
    """
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with _running(settings, documents, launch, environment, log) as running:
        log.info("listening", port=settings.port, tls=settings.tls is not None, keys=running.keys is not None)
        ended = asyncio.create_task(running.engine.wait_ended())
        stopped = asyncio.create_task(_wait_stopped(signals, running, log))
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await _linger(settings, running.engine, stopped, log)
        await _drain(settings, running, signals, ended, log)
        for task in (ended, stopped):
            task.cancel()


@asynccontextmanager
async def _running(
    settings: Settings, documents: Documents, launch: Launch, environment: Mapping[str, str], log: Log
) -> AsyncIterator[_Running]:
    async with AsyncExitStack() as stack:
        keys = KeyRing(settings.keys, log) if settings.keys else None
        certificates = Certificates(settings.tls) if settings.tls else None
        session = await stack.enter_async_context(_session(settings))
        command = launch.command(_config(stack, launch))
        url = f"http://127.0.0.1:{settings.engine_port}"
        engine = Engine(command, environment_of_engine(environment), url, log, patience=settings.health_seconds)
        traces = make_traces(
            environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
            environment.get("OTEL_SERVICE_NAME") or documents.serve.recipe,
            log,
        )
        stack.push_async_callback(_close_traces, traces)
        gateway = Gateway(
            settings, documents, engine, session, keys=keys, traces=traces, log=log, max_model_len=launch.max_model_len
        )
        await _listen(stack, settings, gateway, certificates)
        stack.push_async_callback(engine.stop)
        await engine.start(session)
        yield _Running(gateway, engine, keys, certificates)


def environment_of_engine(environment: Mapping[str, str]) -> dict[str, str]:
    """Give trtllm-serve its variables: all but the path by which this package is found."""
    ours = str(Path(__file__).resolve().parents[1])
    places = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    others = os.pathsep.join(place for place in places if os.path.realpath(place) != ours)
    return {**{name: value for name, value in environment.items() if name != "PYTHONPATH"}} | (
        {"PYTHONPATH": others} if others else {}
    )


def _config(stack: AsyncExitStack, launch: Launch) -> Path:
    """Give the configuration file, or where it must change a copy that goes with the program."""
    if not launch.changes:
        return launch.config
    try:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="nim-gateway-"))
    except OSError as error:
        message = f"no folder for a changed {launch.config.name}: {error}; mount a tmpfs at /tmp"
        raise MachineError(message) from error
    return write_config(launch, Path(folder))


def _session(settings: Settings) -> aiohttp.ClientSession:
    seconds = settings.bounds.request_seconds
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=seconds or None, connect=_CONNECT_SECONDS),
        trust_env=False,
    )


async def _listen(
    stack: AsyncExitStack, settings: Settings, gateway: Gateway, certificates: Certificates | None
) -> None:
    context = certificates.context if certificates else None
    ports = [(settings.port, gateway.answer, context)]
    if settings.health_port is not None:
        ports.append((settings.health_port, gateway.answer_health, None))
    for port, handler, tls in ports:
        door = Door(
            handler,
            most=settings.bounds.connections,
            header_seconds=settings.bounds.header_seconds,
            on_unreadable=gateway.count_unreadable,
        )
        runner = web.ServerRunner(door, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, settings.host, port, ssl_context=tls, backlog=1024).start()
        except OSError as error:
            message = f"cannot listen on {settings.host}:{port}: {os.strerror(error.errno) if error.errno else error}"
            raise MachineError(message) from error


async def _wait_stopped(signals: asyncio.Queue[signal.Signals], running: _Running, log: Log) -> None:
    """Wait for the signal to stop; SIGHUP reads keys and certificates again."""
    while True:
        number = await signals.get()
        if number is not signal.SIGHUP:
            log.info("stopping", signal=number.name)
            return
        if running.keys is not None:
            running.keys.reload()
        if running.certificates is not None:
            running.certificates.reload(log)


async def _linger(settings: Settings, engine: Engine, stopped: asyncio.Task[None], log: Log) -> None:
    """Answer with the reason for a while after trtllm-serve has ended, then end as well."""
    log.error(engine.reason)
    await asyncio.wait({stopped}, timeout=settings.linger_seconds)
    lines = "".join(f"\n  {line}" for line in engine.last_lines)
    message = f"{engine.reason}; its last lines:{lines or ' none'}"
    raise EngineEndedError(message)


async def _drain(
    settings: Settings,
    running: _Running,
    signals: asyncio.Queue[signal.Signals],
    ended: asyncio.Task[None],
    log: Log,
) -> None:
    """Let running requests finish, within the limit; a second signal ends the wait."""
    running.gateway.draining = True
    concurrency = running.gateway.concurrency
    if concurrency.running:
        log.info("draining", requests=concurrency.running, seconds=settings.drain_seconds)
    waits = {asyncio.create_task(concurrency.wait_idle()), asyncio.create_task(_next(signals)), ended}
    await asyncio.wait(waits, timeout=settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if concurrency.running:
        log.warning("requests are cut off", requests=concurrency.running)


async def _next(signals: asyncio.Queue[signal.Signals]) -> None:
    await signals.get()


async def _close_traces(traces: Traces) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TRACES_SECONDS):
            await asyncio.to_thread(traces.close)
