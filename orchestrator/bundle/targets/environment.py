"""Lists the variables of a bundle's server, for every target alike."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.gateway.variables import VARIABLES
from orchestrator.bundle.targets.shutdown import Shutdown

_OF_THE_CONTAINER = frozenset({
    "NIM_SERVER_PORT", "NIM_HEALTH_PORT", "NIM_GATEWAY_HOST", "NIM_GATEWAY_RUNTIME_PORT", "NIM_GATEWAY_LAUNCHER",
    "NIM_GATEWAY_ETC", "NIM_CACHE_PATH", "NIM_MODEL_PATH",
})  # fmt: skip
"""Variables about places in the container. The files of each target set them."""
_DEFAULTS = {"NIM_LOG_LEVEL": "INFO", "NIM_JSONL_LOGGING": "0"}
API_KEYS = "NIM_GATEWAY_API_KEYS"
"""The variable with keys, for platforms that mount no file of them."""
SECRETS = """\
Put keys and certificates here. The server's container has them in /run/secrets, and .env names them: see .env.example.
They must be readable for uid 1000. Another build of the bundle keeps this folder.
"""
"""The README of the folder of secrets."""


def from_env_file(contents: BundleContents) -> Mapping[str, str]:
    """Return the variables that `.env` may set, with their defaults: all except the recipe's and the container's."""
    settings = [variable for variable in VARIABLES if variable.name not in _OF_THE_CONTAINER]
    names = [name for variable in settings for name in (variable.name, *variable.aliases)]
    return {name: _DEFAULTS.get(name, "") for name in names if name not in contents.recipe.serve.environment}


def fixed(contents: BundleContents, shutdown: Shutdown) -> Mapping[str, str]:
    """Return the variables where no `.env` is read: the recipe's, and those that a scheduler needs."""
    own = contents.recipe.serve.environment
    return {**shutdown.variables, "NIM_JSONL_LOGGING": "1", **own} | shutdown.variables
