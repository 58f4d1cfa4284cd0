"""Chooses by the commit which cases of a large table a run tries. With ORCHESTRATOR_EVERY_CASE=1 it tries all."""

from __future__ import annotations

import functools
import os
import random
import subprocess
from collections.abc import Iterable
from typing import TypeVar

from tests.support.environments import ROOT

Item = TypeVar("Item")


@functools.cache
def seed() -> str:
    """Return the commit; the same word everywhere where there is no repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "no commit"


def sample(table: str, items: Iterable[Item], size: int) -> tuple[Item, ...]:
    """Choose cases, and keep their order.

    Args:
        table: A name, so that tables are sampled independently.
        items: All cases.
        size: How many are chosen.
    """
    every = tuple(items)
    if os.environ.get("ORCHESTRATOR_EVERY_CASE") == "1":
        return every
    chosen = random.Random(f"{seed()} {table}").sample(range(len(every)), min(size, len(every)))  # noqa: S311 - a sample
    return tuple(every[index] for index in sorted(chosen))
