"""Reads the gateway's own settings from the environment once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from .addresses import Network, parse_networks
from .documents import Serve
from .errors import ContradictionError
from .variables import Environment

RUNTIME_STOP_SECONDS = 10.0
"""Seconds for the runtime to end after SIGTERM; then it gets SIGKILL."""
TRACES_SECONDS = 5.0
"""Seconds to send the last traces."""
_SPARE_SECONDS = 5.0
_MAX_PORT = 65535


@dataclass(frozen=True)
class KeyLines:
    """The lines of a file of keys, in a variable."""

    text: str


@dataclass(frozen=True)
class Tls:
    """The files of key and certificates."""

    key: Path
    certificates: Path
    clients: Path | None
    """The authorities of clients' certificates; None if clients need none."""


@dataclass(frozen=True)
class Cors:
    """The rights of pages from other origins."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age: int
    """Seconds."""


@dataclass(frozen=True)
class RequestLimits:
    """Limits for requests; seconds, bytes and counts."""

    body_bytes: int
    concurrent_requests: int
    connections: int
    held_bytes: int
    """Of all bodies."""
    concurrent_requests_of_one: int
    """Of one key or address; 0 is no limit."""
    per_minute: int
    """0 is no limit."""
    header_seconds: float
    body_seconds: float
    write_seconds: float
    request_seconds: float
    """0 is no limit."""


@dataclass(frozen=True)
class Settings:
    """All settings of the gateway."""

    host: str
    port: int
    health_port: int | None
    runtime_port: int
    names: tuple[str, ...]
    """The clients' names of the model. Answers have the first one."""
    keys: Path | KeyLines | None
    """None: no key is required."""
    metrics_need_key: bool
    tls: Tls | None
    cors: Cors | None
    limits: RequestLimits
    trusted_proxies: tuple[Network, ...]
    """Their X-Forwarded-For is believed."""
    allow_chat_template: bool
    allow_remote_media: bool
    shutdown_delay_seconds: float
    drain_seconds: float
    linger_seconds: float
    health_seconds: float
    silence_seconds: float | None
    """None: derived from the longest sequence. 0 is no limit."""
    cache: Path
    """The folder of compiled kernels."""
    json_logs: bool
    log_level: str
    log_prompts: bool


def grace_seconds(delay: float, drain: float) -> int:
    """Return the seconds from SIGTERM after which the program has ended; a platform may send SIGKILL only then.

    Args:
        delay: NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS.
        drain: NIM_GATEWAY_DRAIN_SECONDS.
    """
    return math.ceil(delay + drain + RUNTIME_STOP_SECONDS + TRACES_SECONDS + _SPARE_SECONDS)


def read_settings(environment: Environment, serve: Serve) -> Settings:
    """Read the settings.

    Raises:
        ContradictionError: A value is not allowed, or two values contradict each other.
    """
    port, health, runtime = _ports(environment, serve)
    return Settings(
        host=environment.text("NIM_GATEWAY_HOST") or environment.default("NIM_GATEWAY_HOST"),
        port=port,
        health_port=health,
        runtime_port=runtime,
        names=environment.words("NIM_SERVED_MODEL_NAME") or (serve.served_model_name,),
        keys=_keys(environment),
        metrics_need_key=environment.switch("NIM_GATEWAY_METRICS_NEED_KEY") or False,
        tls=_tls(environment),
        cors=_cors(environment),
        limits=_request_limits(environment),
        trusted_proxies=parse_networks("NIM_GATEWAY_TRUSTED_PROXIES", environment.words("NIM_GATEWAY_TRUSTED_PROXIES")),
        allow_chat_template=environment.switch("NIM_GATEWAY_ALLOW_CHAT_TEMPLATE") or False,
        allow_remote_media=environment.switch("NIM_GATEWAY_ALLOW_REMOTE_MEDIA") or False,
        shutdown_delay_seconds=environment.number("NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS") or 0.0,
        drain_seconds=environment.number("NIM_GATEWAY_DRAIN_SECONDS") or 0.0,
        linger_seconds=environment.number("NIM_GATEWAY_LINGER_SECONDS") or 0.0,
        health_seconds=environment.number("NIM_GATEWAY_HEALTH_SECONDS", minimum=0.1) or 0.1,
        silence_seconds=environment.number("NIM_GATEWAY_SILENCE_SECONDS"),
        cache=Path(environment.text("NIM_CACHE_PATH") or environment.default("NIM_CACHE_PATH")),
        json_logs=environment.switch("NIM_JSONL_LOGGING") or False,
        log_level=environment.text("NIM_LOG_LEVEL") or environment.default("NIM_LOG_LEVEL"),
        log_prompts=environment.switch("NIM_GATEWAY_LOG_PROMPTS") or False,
    )


def _ports(environment: Environment, serve: Serve) -> tuple[int, int | None, int]:
    given = environment.text("NIM_SERVER_PORT")
    port = (environment.integer("NIM_SERVER_PORT", minimum=1, maximum=_MAX_PORT) if given else None) or serve.port
    health = environment.integer("NIM_HEALTH_PORT", minimum=1, maximum=_MAX_PORT)
    runtime = environment.integer("NIM_GATEWAY_RUNTIME_PORT", minimum=1, maximum=_MAX_PORT)
    assert runtime is not None  # noqa: S101 - it has a default
    if runtime in {port, health}:
        message = f"port {runtime} is used twice: NIM_GATEWAY_RUNTIME_PORT moves the runtime to another"
        raise ContradictionError(message)
    return port, None if health == port else health, runtime


def _keys(environment: Environment) -> Path | KeyLines | None:
    lines, file = environment.text("NIM_GATEWAY_API_KEYS"), environment.text("NIM_GATEWAY_API_KEYS_FILE")
    if lines:
        return KeyLines(lines)
    return Path(file) if file else None


def _tls(environment: Environment) -> Tls | None:
    mode = environment.text("NIM_SSL_MODE") or "disabled"
    names = {"key": "NIM_SSL_KEY_PATH", "certificates": "NIM_SSL_CERTS_PATH", "clients": "NIM_SSL_CA_CERTS_PATH"}
    given = {field: environment.text(name) for field, name in names.items()}
    if mode == "disabled":
        _check_unused(names, given)
        return None
    if mode == "tls":
        names = {field: name for field, name in names.items() if field != "clients"}
    missing = [name for field, name in names.items() if not given[field]]
    if missing:
        message = f"NIM_SSL_MODE={mode} needs {' and '.join(missing)}"
        raise ContradictionError(message)
    clients = given["clients"] if mode == "mtls" else None
    return Tls(Path(given["key"] or ""), Path(given["certificates"] or ""), Path(clients) if clients else None)


def _check_unused(names: dict[str, str], given: dict[str, str | None]) -> None:
    """Refuse unused certificates, because their owner expects TLS."""
    for field, name in names.items():
        if given[field]:
            message = f"{name} is set, but NIM_SSL_MODE is disabled: set it to tls or mtls"
            raise ContradictionError(message)


def _cors(environment: Environment) -> Cors | None:
    origins = environment.words("NIM_CORS_ALLOW_ORIGINS")
    if not origins:
        return None
    return Cors(
        origins=origins,
        methods=environment.words("NIM_CORS_ALLOW_METHODS"),
        headers=environment.words("NIM_CORS_ALLOW_HEADERS"),
        exposed=environment.words("NIM_CORS_EXPOSE_HEADERS"),
        max_age=environment.integer("NIM_CORS_MAX_AGE") or 0,
    )


def _request_limits(environment: Environment) -> RequestLimits:
    return RequestLimits(
        body_bytes=environment.integer("NIM_GATEWAY_MAX_BODY_BYTES", minimum=1) or 1,
        concurrent_requests=environment.integer("NIM_GATEWAY_MAX_CONCURRENT_REQUESTS", minimum=1) or 1,
        connections=environment.integer("NIM_GATEWAY_MAX_CONNECTIONS", minimum=1) or 1,
        held_bytes=environment.integer("NIM_GATEWAY_MAX_HELD_BYTES", minimum=1) or 1,
        concurrent_requests_of_one=environment.integer("NIM_GATEWAY_MAX_CONCURRENT_REQUESTS_PER_CLIENT") or 0,
        per_minute=environment.integer("NIM_GATEWAY_REQUESTS_PER_MINUTE") or 0,
        header_seconds=environment.number("NIM_GATEWAY_HEADER_SECONDS", minimum=0.1) or 0.1,
        body_seconds=environment.number("NIM_GATEWAY_BODY_SECONDS", minimum=0.1) or 0.1,
        write_seconds=environment.number("NIM_GATEWAY_WRITE_SECONDS", minimum=0.1) or 0.1,
        request_seconds=environment.number("NIM_GATEWAY_REQUEST_SECONDS") or 0.0,
    )
