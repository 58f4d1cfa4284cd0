"""The command: `python3 -m gateway ACTION`.

nim-serve [--dry-run] [OPTIONS of the runtime]    serve; the default
list-model-profiles                               the profile of this bundle
download-to-cache [-p ID]                         nothing to do: the model is local
create-model-store -p ID -m FOLDER                how to copy the model
create-api-key NAME [--file FILE]                 create a key
healthcheck                                       whether the server on this machine is ready
openapi                                           the interface, as OpenAPI
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import actions
from .documents import Documents, read_documents
from .errors import ContradictionError, GatewayError, MachineError, UsageError
from .launch import decide_launch
from .logs import Log
from .settings import Settings, read_settings
from .variables import Environment

_SERVE = "nim-serve"


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run an action.

    Args:
        arguments: The command line.
        environment: The variables.

    Returns:
        The exit status; `errors.py` lists them.
    """
    try:
        return _run(list(arguments), environment)
    except GatewayError as error:
        _report_error(error, environment)
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def _report_error(error: GatewayError, environment: Mapping[str, str]) -> None:
    """Write an error: one JSON object if the log is JSON, else lines for a person."""
    try:
        as_json = Environment(environment).switch("NIM_JSONL_LOGGING") or False
    except ContradictionError:
        as_json = False
    if as_json:
        last_lines = error.last_lines or None
        Log(as_json=True, stream=sys.stderr).error(str(error), exit_status=error.exit_status, last_lines=last_lines)
        return
    lines = "".join(f"\n  {line}" for line in error.last_lines)
    sys.stderr.write(f"error: {error}{'; its last lines:' if lines else ''}{lines}\n")


def _run(arguments: list[str], values: Mapping[str, str]) -> int:
    action = arguments.pop(0) if arguments and not arguments[0].startswith("-") else _SERVE
    if {"-h", "--help"} & set(arguments) or action == "help":
        _print(__doc__ or "")
        return 0
    if action == "create-api-key":  # needs no bundle
        _print(actions.create_api_key(arguments))
        return 0
    environment = Environment(values)
    folder = environment.text("NIM_GATEWAY_ETC") or environment.default("NIM_GATEWAY_ETC")
    documents = read_documents(Path(folder))
    settings = read_settings(environment, documents.serve)
    if action == _SERVE:
        return _serve(arguments, environment, values, documents, settings)
    _print(_report(action, arguments, documents, settings))
    return 0


def _report(action: str, arguments: list[str], documents: Documents, settings: Settings) -> str:
    match action:
        case "list-model-profiles":
            return actions.profile_list(documents.serve)
        case "download-to-cache":
            return actions.download_report(documents.serve, arguments)
        case "create-model-store":
            return actions.refuse_model_store(documents.serve, arguments)
        case "healthcheck":
            return actions.check_health(settings)
        case "openapi":
            return actions.openapi_text(settings, documents.serve)
        case _:
            message = f"there is no action {action!r}; `help` lists the actions"
            raise UsageError(message)


def _serve(
    arguments: list[str],
    environment: Environment,
    values: Mapping[str, str],
    documents: Documents,
    settings: Settings,
) -> int:
    _check_aiohttp()
    dry = "--dry-run" in arguments
    launch = decide_launch(
        documents.serve, settings, environment, [word for word in arguments if word not in {"--dry-run", "--"}]
    )
    warnings = tuple(environment.warnings())
    if dry:
        _print(actions.launch_report(settings, documents, launch, warnings))
        return 0
    from .serving import serve  # noqa: PLC0415 - it imports aiohttp, which was checked above

    log = Log(settings.log_level, as_json=settings.json_logs)
    for warning in warnings:
        log.warning(warning)
    asyncio.run(serve(settings, documents, launch, values, log))
    return 0


def _check_aiohttp() -> None:
    try:
        import aiohttp  # noqa: F401, PLC0415 - checked
    except ImportError as error:
        message = "aiohttp is missing: use the bundle's image; the runtimes' images have aiohttp"
        raise MachineError(message) from error


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
