"""Calculates the speed of a recipe's own drafts by acceptance rate, which only a measurement can determine."""

from __future__ import annotations

from orchestrator.planner.bytes import weights_read_per_step
from orchestrator.planner.drafting import bytes_of_pass, drafting
from orchestrator.planner.serving import Serving
from orchestrator.planner.speculative import (
    acceptance_for,
    check_cost_ratio,
    speculative,
)
from orchestrator.planner.speed import Band, speed
from orchestrator.planner.step_time import load_of
from orchestrator.recipe.model import Recipe
from orchestrator.values import frozen

_ACCEPTED = (0.6, 0.8)
"""Acceptance rates for which the speed is given."""


@frozen
class DraftSpeed:
    """One request with drafts."""

    draft_length: int
    draft_cost: float
    """Time to draft one token, relative to a step: bytes read over bytes read."""
    check_cost: float
    """Time of a step that checks the drafts, relative to one that generates a single token."""
    speeds: tuple[tuple[float, Band], ...]
    """Tokens per second by the chance that a drafted token is accepted."""
    pays_from: float | None
    """The acceptance from which drafts are faster than none; None if they never are."""


def draft_speed(recipe: Recipe, serving: Serving) -> DraftSpeed | None:
    """Calculate a recipe's drafts for one request at the server's context; None without drafts.

    Raises:
        SpeedInputError: A target without a GPU.
    """
    drafts = recipe.serve.speculative
    if drafts is None:
        return None
    length = drafts.num_nextn_predict_layers if drafts.type == "mtp" else drafts.max_draft_len
    plain, load = speed(serving).decode, load_of(serving)
    read = serving.draft_bytes or bytes_of_pass(drafting("mtp", length), serving.shape, serving.scheme, 1)
    cost = read / weights_read_per_step(serving.shape, serving.scheme)
    check = max(check_cost_ratio(load, length), 1.0)
    return DraftSpeed(
        draft_length=length,
        draft_cost=cost,
        check_cost=check,
        speeds=tuple(
            (
                share,
                speculative(
                    plain, draft_cost_ratio=cost, draft_len=length, acceptance=share, check_cost_ratio=check
                ).speed,
            )
            for share in _ACCEPTED
        ),
        pays_from=acceptance_for(
            plain.expected, plain, draft_cost_ratio=cost, draft_len=length, check_cost_ratio=check
        ),
    )
