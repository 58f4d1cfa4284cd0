"""Actions of `start_server.sh` besides serving: reports, checks, and new API keys."""

from __future__ import annotations

import argparse
import json
import shlex
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from .documents import Documents, Serve
from .errors import MachineError, UsageError
from .keys import create_key
from .launch import Launch
from .openapi import describe
from .routes import Route, routes_of
from .runtimes import RUNTIMES
from .settings import Settings
from .starting import RuntimeKind

_PROBE_SECONDS = 5.0


def launch_report(settings: Settings, documents: Documents, launch: Launch, warnings: Sequence[str]) -> str:
    """Describe what `nim-serve` would do, without secrets."""
    serve, limits = documents.serve, settings.limits
    tls = "no TLS" if settings.tls is None else "mutual TLS" if settings.tls.clients else "TLS"
    keys = f"API keys of {settings.keys}" if settings.keys else "no API keys"
    changed = launch.config.changes if launch.config else {}
    changes = [f"  {'.'.join(key)}: {json.dumps(value)}" for key, value in changed.items()]
    software = f"{launch.kind.LABEL} {serve.version}"
    lines = [
        f"recipe {serve.recipe}, {software}, profile {serve.profile.name} ({serve.profile.id})",
        f"listens on {settings.host}:{settings.port}: {tls}, {keys}",
        *([f"health alone on {settings.host}:{settings.health_port}"] if settings.health_port else []),
        f"model {launch.model}, called {', '.join(settings.names)}",
        f"at most {limits.concurrent_requests} requests at once, {limits.body_bytes} bytes each, "
        + (f"{limits.per_minute} a minute per client" if limits.per_minute else "any number a minute"),
        "starts: " + shlex.join(launch.command()),
        *(["with these changes in a copy of the configuration:", *changes] if changes else []),
        "routes: " + ", ".join(f"{route.method} {route.path}" for route in _routes(launch.kind)),
        *(f"warning: {warning}" for warning in warnings),
    ]
    return "\n".join(lines)


def _routes(kind: RuntimeKind) -> tuple[Route, ...]:
    return routes_of(kind.FIELDS, kind.STORED)


def profile_list(serve: Serve) -> str:
    """Write the list of profiles: the bundle has one."""
    profile = serve.profile
    tags = ", ".join(f"{name}={value}" for name, value in sorted(profile.tags.items()))
    return (
        f"MODEL PROFILES\n- Compatible with this bundle:\n  - {profile.id} ({profile.name})\n    {tags}\n"
        "- Other profiles: none; the bundle has only this one"
    )


def download_report(serve: Serve, arguments: Sequence[str]) -> str:
    """Explain that there is nothing to download.

    Raises:
        UsageError: Another profile is requested.
    """
    parser = _Parser(prog="download-to-cache")
    parser.add_argument("-p", "--profile", "--profiles", nargs="*", default=[])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--lora", action="store_true")
    given = parser.parse_args(list(arguments))
    _check_profiles(serve, given.profile)
    return f"The model of {serve.recipe} is local, in {serve.model} or in the folder NIM_MODEL_PATH. Nothing to do."


def refuse_model_store(serve: Serve, arguments: Sequence[str]) -> str:
    """Explain how to copy the model; `create-model-store` of a NIM would write such a folder.

    Raises:
        UsageError: Always; the message says what to do.
    """
    parser = _Parser(prog="create-model-store")
    parser.add_argument("-p", "--profile", required=True)
    parser.add_argument("-m", "--model-store", required=True)
    given = parser.parse_args(list(arguments))
    _check_profiles(serve, [given.profile])
    message = (
        f"the model of {serve.recipe} is a folder already: copy model/ of the bundle to {given.model_store} "
        "and set NIM_MODEL_PATH to it"
    )
    raise UsageError(message)


def create_api_key(arguments: Sequence[str]) -> str:
    """Create an API key and print it once.

    Raises:
        UsageError: The name is invalid, or has a key already.
        DocumentError: The file cannot be written.
    """
    parser = _Parser(prog="create-api-key")
    parser.add_argument("name", help="the owner of the key")
    parser.add_argument("--file", type=Path, help="the file of keys to add it to; NIM_GATEWAY_API_KEYS_FILE names it")
    given = parser.parse_args(list(arguments))
    key, line = create_key(given.name, given.file)
    where = f"added to {given.file}" if given.file else f"add this line to the file of keys: {line}"
    sys.stderr.write(f"the key of {given.name}, shown this once; {where}\n")
    return key


def openapi_text(settings: Settings, serve: Serve) -> str:
    """Write the description of the interface."""
    return json.dumps(describe(settings.names, _routes(RUNTIMES[serve.runtime])), indent=1)


def check_health(settings: Settings) -> str:
    """Check whether the server on this machine is ready.

    Raises:
        MachineError: It is not ready.
    """
    mutual = settings.tls is not None and settings.tls.clients is not None
    if mutual and settings.health_port is None:
        message = "with NIM_SSL_MODE=mtls a probe needs NIM_HEALTH_PORT, which requires no certificate"
        raise MachineError(message)
    scheme = "https" if settings.tls and settings.health_port is None else "http"
    url = f"{scheme}://127.0.0.1:{settings.health_port or settings.port}/v1/health/ready"
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only loopback
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=_PROBE_SECONDS) as answer:
            return str(json.load(answer)["message"])
    except urllib.error.HTTPError as error:
        message = f"not ready: {_reason(error)}"
        raise MachineError(message) from error
    except (OSError, ValueError, KeyError) as error:
        message = f"not ready: {url}: {error}"
        raise MachineError(message) from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        document: Mapping[str, Mapping[str, str]] = json.loads(error.read())
        return document["error"]["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"status {error.code}"


def _check_profiles(serve: Serve, requested: Sequence[str]) -> None:
    for name in requested:
        if name not in {serve.profile.id, serve.profile.name}:
            message = f"there is no profile {name}: this bundle has {serve.profile.id} only"
            raise UsageError(message)


class _Parser(argparse.ArgumentParser):
    """A parser that raises instead of exiting."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise the message."""
        text = f"{self.prog}: {message}"
        raise UsageError(text)
