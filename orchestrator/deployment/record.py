"""Records which recipes were deployed, so that other commands need Docker only if there is a deployment.

Only Docker knows what runs. A record means that Docker must be queried.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import machine_faults

_FOLDER = "deployed"


def lock_of(recipe: str) -> str:
    """Return the store's lock for starting or removing a recipe's server, so that two commands do not run together."""
    return f"deployed-{recipe}"


def remember(store: Path, recipe: str) -> None:
    """Record that a recipe is being deployed.

    Args:
        store: The root of the store.
        recipe: The recipe.

    Raises:
        MachineError: The record cannot be written.
    """
    with machine_faults("recording a deployment"):
        (store / _FOLDER).mkdir(parents=True, exist_ok=True)
        (store / _FOLDER / recipe).touch()


def forget(store: Path, recipe: str) -> None:
    """Remove the record."""
    with machine_faults("removing the record of a deployment"):
        (store / _FOLDER / recipe).unlink(missing_ok=True)


def remembered(store: Path) -> frozenset[str]:
    """List the recipes that were deployed and not removed."""
    return frozenset(mark.name for mark in (store / _FOLDER).glob("*"))
