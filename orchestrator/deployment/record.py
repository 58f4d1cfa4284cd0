"""Remembers which recipes were deployed, so that nobody else needs an engine to be told that nothing is.

What is up only the engine knows: a mark says that it is worth asking.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import machine_faults

_FOLDER = "deployed"


def lock_of(recipe: str) -> str:
    """Name the store's lock under which a recipe is brought up or taken down: two at once would each make all of it."""
    return f"deployed-{recipe}"


def remember(store: Path, recipe: str) -> None:
    """Note that a recipe is being deployed.

    Args:
        store: The root of the store.
        recipe: The recipe.

    Raises:
        MachineError: The note cannot be written.
    """
    with machine_faults("noting a deployment"):
        (store / _FOLDER).mkdir(parents=True, exist_ok=True)
        (store / _FOLDER / recipe).touch()


def forget(store: Path, recipe: str) -> None:
    """Note that it is no more."""
    with machine_faults("noting the end of a deployment"):
        (store / _FOLDER / recipe).unlink(missing_ok=True)


def remembered(store: Path) -> frozenset[str]:
    """Name the recipes that were deployed and not taken down again."""
    return frozenset(mark.name for mark in (store / _FOLDER).glob("*"))
