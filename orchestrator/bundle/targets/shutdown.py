"""Calculates how long a server may take to end, by one formula for every target."""

from __future__ import annotations

import math

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.gateway.errors import ContradictionError
from orchestrator.bundle.gateway.settings import grace_seconds
from orchestrator.bundle.gateway.variables import Environment
from orchestrator.errors import RecipeInvalidError
from orchestrator.values import frozen

DELAY, DRAIN = "NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS", "NIM_GATEWAY_DRAIN_SECONDS"
_LONG_DRAIN = 100
"""Seconds for running requests to finish where a scheduler, not a person, waits for the end."""


@frozen
class Shutdown:
    """The seconds of each part of a server's end."""

    delay: int
    drain: int

    @property
    def ending(self) -> int:
        """After the drain: trtllm-serve and its workers end, and the last traces are sent."""
        return grace_seconds(0, 0)

    @property
    def grace(self) -> int:
        """From SIGTERM to SIGKILL."""
        return grace_seconds(self.delay, self.drain)

    @property
    def variables(self) -> dict[str, str]:
        """The gateway's variables for it."""
        return {DELAY: str(self.delay), DRAIN: str(self.drain)}


def default_shutdown(contents: BundleContents) -> Shutdown:
    """Return the times by the gateway's own defaults and the recipe's variables.

    Raises:
        RecipeInvalidError: The recipe sets one of them to something else than a number of seconds.
    """
    environment = Environment(contents.recipe.serve.environment)
    try:
        return Shutdown(math.ceil(environment.number(DELAY) or 0), math.ceil(environment.number(DRAIN) or 0))
    except ContradictionError as error:
        message = f"recipe {contents.recipe.name}: serve.environment: {error}"
        raise RecipeInvalidError(message) from error


def long_shutdown(contents: BundleContents) -> Shutdown:
    """Return the times where long answers may finish: the recipe's drain, else a long one."""
    default = default_shutdown(contents)
    drain = default.drain if DRAIN in contents.recipe.serve.environment else _LONG_DRAIN
    return Shutdown(default.delay, drain)


def shutdown_within(contents: BundleContents, grace: int) -> Shutdown:
    """Return the times for a platform with a grace of its own: the drain is what is left of it."""
    default = default_shutdown(contents)
    return Shutdown(default.delay, min(default.drain, max(0, grace - default.delay - default.ending)))
