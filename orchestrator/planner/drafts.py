"""Calculates how many drafted tokens must be accepted for a target speed that plain decoding cannot reach."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.planner.comparison import Comparison, Row, usual_format
from orchestrator.planner.speculative import (
    acceptance_for,
    check_cost_ratio,
    one_layer_bytes,
    tokens_needed,
    tokens_per_step,
)
from orchestrator.planner.speed import Band
from orchestrator.planner.step_time import load_of
from orchestrator.values import frozen

DRAFT_LENGTH = 5
"""Tokens drafted per step, as in NVIDIA's playbook for EAGLE-3 on a Spark."""

QUOTED = (18.0, 20.0)
"""Tokens per second that are often quoted for a 70B model in NVFP4 on a Spark."""
_QUOTED_FOR = (65e9, 75e9)


@frozen
class Wanted:
    """One target speed and its requirements."""

    speed: float
    """Tokens per second, summed over the batch."""
    tokens_per_step: float
    """Tokens per request that a step must yield if drafts and their check cost nothing."""
    with_costs: float
    """The same, with the cost of drafts and check."""
    acceptance: float | None
    """Required chance that a drafted token is accepted; None if accepting all is not enough."""

    @property
    def drafts_accepted(self) -> float:
        """Accepted drafts of each step, without the step's own token."""
        return max(self.with_costs - 1, 0.0)


@frozen
class Drafts:
    """The requirements on drafts for one format."""

    row: Row
    plain: Band
    ceiling: float
    """Upper limit of plain decoding in tokens per second."""
    draft_length: int
    draft_cost: float
    """Time to draft one token, relative to a step: assumed to be that of one layer in BF16, like an EAGLE-3 head."""
    check_cost: float
    """Time of a step that checks the drafts, relative to one that generates a single token."""
    most: float
    """Tokens per step if every draft is accepted."""
    wanted: tuple[Wanted, ...]
    quoted: bool
    """Whether the target speeds are the often quoted ones."""


def drafts(comparison: Comparison, wanted: Sequence[float] = ()) -> Drafts | None:
    """Calculate the requirements of target speeds for the recommended format; None if none fits, or without a GPU.

    Args:
        comparison: The formats.
        wanted: Tokens per second. Default: the often quoted speeds, or twice and three times the plain speed.
    """
    row = _usual(comparison)
    if row is None or row.figures.decode is None or row.figures.ceiling is None:
        return None
    plain, load = row.figures.decode, load_of(row.serving)
    cost = one_layer_bytes(comparison.subject.shape) / row.figures.active_bytes_per_token
    check = max(check_cost_ratio(load, DRAFT_LENGTH), 1.0)
    paid = check + DRAFT_LENGTH * cost
    quoted = not wanted and _is_quoted(comparison)
    speeds = QUOTED if quoted else tuple(wanted) or (2 * plain.expected, 3 * plain.expected)
    return Drafts(
        row=row,
        plain=plain,
        ceiling=row.figures.ceiling,
        draft_length=DRAFT_LENGTH,
        draft_cost=cost,
        check_cost=check,
        most=tokens_per_step(DRAFT_LENGTH, 1.0),
        wanted=tuple(
            Wanted(
                speed,
                tokens_needed(speed, plain.expected),
                tokens_needed(speed, plain.expected) * paid,
                acceptance_for(speed, plain, draft_cost_ratio=cost, draft_len=DRAFT_LENGTH, check_cost_ratio=check),
            )
            for speed in speeds
        ),
        quoted=quoted,
    )


def _usual(comparison: Comparison) -> Row | None:
    """Choose the recommended format, else the smallest that fits."""
    fitting = [row for row in comparison.rows if row.usable and row.figures.decode]
    name = usual_format(comparison.subject.shape.architecture, comparison.terms)
    usual = [row for row in fitting if row.format == name]
    return next(iter((*usual, *reversed(fitting))), None)


def _is_quoted(comparison: Comparison) -> bool:
    terms, shape = comparison.terms, comparison.subject.shape
    least, most = _QUOTED_FOR
    alike = not shape.is_moe and least < shape.parameters < most
    return alike and terms.target_name == "dgx-spark" and terms.batch == 1
