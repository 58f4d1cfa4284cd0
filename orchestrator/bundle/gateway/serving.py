"""Runs `nim-serve`: listens, starts the runtime, and stops both in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from .config_file import write_config
from .connections import LimitedServer
from .documents import Documents
from .errors import MachineError, RuntimeEndedError, RuntimeHungError
from .gateway import Gateway, Phase
from .harmony import VocabularyError, write_vocabulary
from .keys import KeyRing
from .launch import Launch
from .logs import Log
from .runtime import Runtime, State
from .settings import TRACES_SECONDS, Settings
from .silence import Silence, default_limit
from .starting import ConfigChanges, Links
from .tls import Certificates
from .traces import Traces, make_traces

_KEEP_ALIVE = 2.0
"""Seconds for which a connection to the runtime is kept: uvicorn closes idle ones after five."""
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class _Running:
    """The parts of a running server."""

    gateway: Gateway
    runtime: Runtime
    keys: KeyRing | None
    certificates: Certificates | None
    servers: tuple[LimitedServer, ...]


async def serve(
    settings: Settings, documents: Documents, launch: Launch, environment: Mapping[str, str], log: Log
) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        RuntimeEndedError: the runtime ended by itself.
        RuntimeHungError: the runtime hangs.
        MachineError: A port is in use, or a program is missing.
        DocumentError: Keys or certificates cannot be read.
    """
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, signals.put_nowait, number)
    async with _running(settings, documents, launch, environment, log) as running:
        log.info("listening", port=settings.port, tls=settings.tls is not None, keys=running.keys is not None)
        failed = asyncio.create_task(running.runtime.wait_failed())
        stopped = asyncio.create_task(_wait_stopped(signals, running, log))
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await _linger(settings, running.runtime, stopped, log)
        again = asyncio.create_task(_next(signals))
        if stopped.result() is signal.SIGTERM:
            await _delay(settings, running, {again, failed}, log)
        if not again.done():
            await _drain(settings, running, {again, failed}, log)
        for task in (failed, stopped, again):
            task.cancel()


@asynccontextmanager
async def _running(
    settings: Settings, documents: Documents, launch: Launch, environment: Mapping[str, str], log: Log
) -> AsyncIterator[_Running]:
    async with AsyncExitStack() as stack:
        keys = KeyRing(settings.keys, log) if settings.keys else None
        certificates = Certificates(settings.tls) if settings.tls else None
        session = await stack.enter_async_context(_session(settings))
        _link(launch.links)
        command = launch.command(_config(stack, launch.config))
        url = f"http://127.0.0.1:{settings.runtime_port}"
        runtime = Runtime(
            command,
            {
                **runtime_environment(environment),
                **launch.environment,
                **_vocabulary(stack, launch.model, environment, log),
            },
            launch.kind,
            url,
            log,
            health_seconds=settings.health_seconds,
            silence=_silence(settings, launch),
        )
        traces = make_traces(
            environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
            environment.get("OTEL_SERVICE_NAME") or documents.serve.recipe,
            log,
        )
        stack.push_async_callback(_close_traces, traces)
        gateway = Gateway(settings, documents, runtime, session, keys=keys, traces=traces, log=log, launch=launch)
        stack.push_async_callback(gateway.close)
        servers = await _listen(stack, settings, gateway, certificates)
        stack.push_async_callback(runtime.stop)
        await runtime.start(session)
        yield _Running(gateway, runtime, keys, certificates, servers)


def _silence(settings: Settings, launch: Launch) -> Silence:
    limit = settings.silence_seconds
    return Silence(default_limit(launch.max_model_len) if limit is None else limit, launch.max_batch_size)


def runtime_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for the runtime: all except the path to this package."""
    ours = str(Path(__file__).resolve().parents[1])
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    others = os.pathsep.join(path for path in paths if path and os.path.realpath(path) != ours)
    variables = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return variables | ({"PYTHONPATH": others} if others else {})


def _config(stack: AsyncExitStack, config: ConfigChanges | None) -> Path | None:
    """Return the configuration file, or a changed copy that is removed at the end."""
    if config is None or not config.changes:
        return None
    return write_config(config, _folder(stack, f"the changed {config.file.name}"))


def _vocabulary(stack: AsyncExitStack, model: Path, environment: Mapping[str, str], log: Log) -> dict[str, str]:
    """Return the variables that name the vocabulary of a model that needs one, which is removed at the end."""
    try:
        return write_vocabulary(model, lambda: _folder(stack, "the vocabulary"), environment)
    except VocabularyError as error:
        log.warning(str(error))
        return {}


def _folder(stack: AsyncExitStack, what: str) -> Path:
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nim-gateway-")))
    except OSError as error:
        message = f"cannot create a folder for {what}: {error}; mount a tmpfs at /tmp"
        raise MachineError(message) from error


def _link(links: Links | None) -> None:
    """Make the links to a read-only folder that the runtime needs. Another server may use the same ones meanwhile."""
    if links is None:
        return
    source = links.source.absolute()
    try:
        for file in (found for found in source.rglob("*") if found.is_file()):
            link = links.folder / links.place / file.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not (link.is_symlink() and link.readlink() == file):
                fresh = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
                fresh.symlink_to(file)
                fresh.replace(link)
    except OSError as error:
        message = f"cannot link {links.source} into {links.folder}: {error}; NIM_CACHE_PATH must be writable"
        raise MachineError(message) from error


def _session(settings: Settings) -> aiohttp.ClientSession:
    seconds = settings.limits.request_seconds
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
) -> tuple[LimitedServer, ...]:
    servers = []
    context = certificates.context if certificates else None
    ports = [(settings.port, gateway.answer, context)]
    if settings.health_port is not None:
        ports.append((settings.health_port, gateway.answer_health, None))
    for port, handler, tls in ports:
        server = LimitedServer(
            handler,
            max_connections=settings.limits.connections,
            header_seconds=settings.limits.header_seconds,
            on_unreadable=gateway.count_unreadable,
        )
        servers.append(server)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, settings.host, port, ssl_context=tls, backlog=1024).start()
        except OSError as error:
            message = f"cannot listen on {settings.host}:{port}: {os.strerror(error.errno) if error.errno else error}"
            raise MachineError(message) from error
    return tuple(servers)


async def _wait_stopped(signals: asyncio.Queue[signal.Signals], running: _Running, log: Log) -> signal.Signals:
    """Wait for a signal to stop, and return it. SIGHUP reads keys and certificates again."""
    while True:
        number = await signals.get()
        if number is not signal.SIGHUP:
            log.info("stopping", signal=number.name)
            return number
        if running.keys is not None:
            running.keys.reload()
        if running.certificates is not None:
            running.certificates.reload(log)


async def _linger(settings: Settings, runtime: Runtime, stopped: asyncio.Task[signal.Signals], log: Log) -> None:
    """Answer with the reason for a while after the runtime has ended or hung, then end as well."""
    log.error(runtime.reason)
    await asyncio.wait({stopped}, timeout=settings.linger_seconds)
    error = RuntimeHungError if runtime.state is State.HUNG else RuntimeEndedError
    raise error(runtime.reason, last_lines=runtime.last_lines)


async def _delay(settings: Settings, running: _Running, ends: set[asyncio.Task[None]], log: Log) -> None:
    """Serve on for a while as not ready, so that load balancers stop sending requests before any is refused."""
    if running.runtime.state is not State.READY:
        return  # no load balancer sends requests
    running.gateway.phase = Phase.LEAVING
    log.info("not ready, still serving", seconds=settings.shutdown_delay_seconds)
    await asyncio.wait(ends, timeout=settings.shutdown_delay_seconds, return_when=asyncio.FIRST_COMPLETED)


async def _drain(settings: Settings, running: _Running, ends: set[asyncio.Task[None]], log: Log) -> None:
    """Let running requests finish, within the limit; a second signal ends the wait."""
    running.gateway.phase = Phase.DRAINING
    for server in running.servers:
        server.close_idle()
    concurrency = running.gateway.concurrency
    if concurrency.running:
        log.info("draining", requests=concurrency.running, seconds=settings.drain_seconds)
    idle = asyncio.create_task(concurrency.wait_idle())
    await asyncio.wait({idle, *ends}, timeout=settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    if concurrency.running:
        log.warning("requests cut off", requests=concurrency.running)


async def _next(signals: asyncio.Queue[signal.Signals]) -> None:
    await signals.get()


async def _close_traces(traces: Traces) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TRACES_SECONDS):
            await asyncio.to_thread(traces.close)
