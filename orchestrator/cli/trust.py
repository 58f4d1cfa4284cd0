"""Defines the options that say whose signatures are trusted."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from orchestrator.bundle.keyless import Identity, TrustedIdentity

Command = Callable[..., Any]
_VARIABLES = {
    "key": "ORCHESTRATOR_TRUSTED_KEY",
    "identity": "ORCHESTRATOR_TRUSTED_IDENTITY",
    "issuer": "ORCHESTRATOR_TRUSTED_ISSUER",
}
_FILE = click.Path(path_type=Path)

trust_config_option = click.option(
    "--trust-config",
    type=_FILE,
    envvar="ORCHESTRATOR_TRUST_CONFIG",
    metavar="FILE",
    help="The services of Sigstore and their keys, as JSON; to check, the keys do. Default: ORCHESTRATOR_TRUST_CONFIG, "
    "else Sigstore's own services, whose keys are fetched.",
)


def trust_options(*, by_variables: bool) -> Callable[[Command], Command]:
    """Give a command `trusted`: the file of a public key, an identity, or None.

    Args:
        by_variables: Variables of the environment can demand a signature. Otherwise, an option must.
    """

    def add(function: Command) -> Command:
        @wraps(function)
        def command(
            *args: Any,  # noqa: ANN401 - those of the command
            key: Path | None,
            identity: str | None,
            issuer: str | None,
            trust_config: Path | None,
            **others: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401
            trusted = _trusted(key, identity, issuer, trust_config)
            if not (trusted or by_variables):
                message = "name whom you trust: --key FILE, or --identity WHO and --issuer URL"
                raise click.UsageError(message)
            return function(*args, trusted=trusted, **others)

        options = (
            _option("key", "FILE", "this public key (PEM) has signed", by_variables=by_variables),
            _option("identity", "WHO", "this identity has signed, such as you@example.com", by_variables=by_variables),
            _option("issuer", "URL", "an identity of this provider has signed", by_variables=by_variables),
            trust_config_option,
        )
        decorated: Command = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return add


def _option(name: str, metavar: str, trusted: str, *, by_variables: bool) -> Callable[[Command], Command]:
    variable = _VARIABLES[name]
    return click.option(
        f"--{name}",
        name,
        type=_FILE if name == "key" else str,
        envvar=variable if by_variables else None,
        metavar=metavar,
        help=f"Start only a bundle that {trusted}. Default: {variable}, if that is set."
        if by_variables
        else f"Trust what {trusted}. It must not come from the bundle itself.",
    )


def _trusted(
    key: Path | None, identity: str | None, issuer: str | None, trust_config: Path | None
) -> Path | TrustedIdentity | None:
    if key and (identity or issuer):
        message = (
            "a key and an identity are given (options or variables): a bundle has one signature, so name one of them"
        )
        raise click.UsageError(message)
    if identity and issuer:
        return TrustedIdentity(Identity(identity, issuer), trust_config)
    if identity or issuer:
        message = "--identity and --issuer belong together: who signed, and the provider that knows that name"
        raise click.UsageError(message)
    refuse_unused_trust_config("--identity and --issuer")
    return key


def refuse_unused_trust_config(needed: str) -> None:
    """Refuse --trust-config if nothing uses it. Its variable may be set for other commands."""
    if click.get_current_context().get_parameter_source("trust_config") is ParameterSource.COMMANDLINE:
        message = f"--trust-config is for signatures by an identity: it needs {needed}"
        raise click.UsageError(message)
