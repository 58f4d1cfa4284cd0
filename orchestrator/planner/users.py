"""Describes a server with the users of a workload, with more and with fewer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from orchestrator.planner.figures import requests
from orchestrator.planner.queueing import Queue, Targets, knee, sweep, users_within
from orchestrator.planner.serving import Serving
from orchestrator.planner.speed import Band, speed
from orchestrator.values import frozen

_GAINS_FOR = (1, 16, 64)
"""Users for which the gain of drafts is given."""


@frozen
class Users:
    """What users of a server see."""

    input_tokens: int
    output_tokens: int
    queue: Queue
    decode: Band
    """Tokens per second of all."""
    sweep: tuple[Queue, ...]
    """1, 2, 4, … users, as many as fit; empty if not one does."""
    targets: Targets
    within: int | None
    """How many users fit within the targets; None without targets."""
    watts: float | None
    """Most power of all GPUs; None if their vendor states none."""
    gains: tuple[tuple[int, float], ...]
    """With drafts: by a number of users, their speed relative to the speed without. Below 1, drafts are a loss."""
    limits: tuple[str, ...]
    """What is not as asked."""

    @property
    def knee(self) -> Queue | None:
        """From here on more users cost more time than they bring tokens; None if not one user fits."""
        return knee(self.sweep) if self.sweep else None


def users_of(serving: Serving, most: int, targets: Targets | None = None) -> Users | None:
    """Calculate what users see; None without a GPU, or if answers have no length.

    Args:
        serving: The server, with the users as its batch.
        most: Requests that it takes at once.
        targets: The times that users accept.

    Raises:
        SpeedInputError: A number that no run can have.
        CatalogError: No such runtime.
    """
    found = speed(serving) if serving.target.gpu else None
    if found is None or found.queue is None:
        return None
    wanted = targets or Targets()
    return Users(
        input_tokens=serving.context - serving.output_tokens,
        output_tokens=serving.output_tokens,
        queue=found.queue,
        decode=found.decode,
        sweep=sweep(serving, most),
        targets=wanted,
        within=users_within(serving, wanted, most) if wanted.given else None,
        watts=serving.watts,
        gains=tuple(_gains(serving)),
        limits=tuple(_limits(serving, most)),
    )


def _gains(serving: Serving) -> Iterator[tuple[int, float]]:
    if serving.drafter is not None:
        for users in _GAINS_FOR:
            asked = replace(serving, batch=users)
            yield users, speed(asked).decode.expected / speed(replace(asked, drafter=None)).decode.expected


def _limits(serving: Serving, most: int) -> Iterator[str]:
    if serving.batch > most:
        yield f"{serving.batch:,} users, and the server takes {requests(most)} at once: the others wait"


def users_document(users: Users) -> dict[str, Any]:
    """Convert to JSON, in seconds and per second."""
    return {
        "users": queue_document(users.queue),
        "users_within_targets": users.within,
        "draft_gains": dict(users.gains),
        "knee": users.knee.users if users.knee else None,
        "sweep": [queue_document(queue) for queue in users.sweep],
    }


def queue_document(queue: Queue) -> dict[str, Any]:
    """Convert what a number of users see to JSON, in seconds and per second."""
    return {
        "concurrency": queue.users,
        "running": queue.running,
        "tokens_per_s": queue.tokens_per_second,
        "tokens_per_s_of_each": queue.tokens_per_second_of_each,
        "requests_per_s": queue.requests_per_second,
        "first_token_s": asdict(queue.first_token),
        "time_per_token_s": asdict(queue.per_token),
    }
