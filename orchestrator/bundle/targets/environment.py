"""Lists the variables of a bundle's server, for every target alike."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.shutdown import DELAY, DRAIN, Shutdown

_FROM_ENV_FILE = {
    "NIM_SERVED_MODEL_NAME": "",
    "NIM_MAX_MODEL_LEN": "",
    "NIM_KVCACHE_PERCENT": "",
    "NIM_PASSTHROUGH_ARGS": "",
    "NIM_GATEWAY_API_KEYS_FILE": "",
    "NIM_GATEWAY_MAX_CONCURRENT_REQUESTS": "",
    "NIM_GATEWAY_REQUESTS_PER_MINUTE": "",
    DELAY: "",
    DRAIN: "",
    "NIM_CORS_ALLOW_ORIGINS": "",
    "NIM_SSL_MODE": "",
    "NIM_SSL_KEY_PATH": "",
    "NIM_SSL_CERTS_PATH": "",
    "NIM_SSL_CA_CERTS_PATH": "",
    "NIM_LOG_LEVEL": "INFO",
    "NIM_JSONL_LOGGING": "0",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
}
"""The variables that `.env` passes to the server, with their defaults."""
SECRETS = """\
Put keys and certificates here. The server's container has them in /run/secrets, and .env names them: see .env.example.
They must be readable for uid 1000. Another build of the bundle keeps this folder.
"""
"""The README of the folder of secrets."""


def from_env_file(contents: BundleContents) -> Mapping[str, str]:
    """Return the variables that `.env` may set, with their defaults: all except those that the recipe sets."""
    return {name: text for name, text in _FROM_ENV_FILE.items() if name not in contents.recipe.serve.environment}


def fixed(contents: BundleContents, shutdown: Shutdown) -> Mapping[str, str]:
    """Return the variables where no `.env` is read: the recipe's, and those that a scheduler needs."""
    own = contents.recipe.serve.environment
    return {**shutdown.variables, "NIM_JSONL_LOGGING": "1", **own} | shutdown.variables
