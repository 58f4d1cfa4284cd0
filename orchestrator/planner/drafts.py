"""How many drafted tokens must be accepted for a wanted speed: what plain decoding cannot give, drafts may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planner.comparison import Comparison, Row, usual_format
from orchestrator.planner.speculative import (
    acceptance_for,
    check_cost_ratio,
    one_layer_bytes,
    tokens_needed,
    tokens_per_step,
)
from orchestrator.planner.speed import Band, workload

DRAFT_LENGTH = 5
"""Tokens drafted per step: what NVIDIA's playbook for EAGLE-3 on a Spark sets."""

QUOTED = (18.0, 20.0)
"""Tokens per second that are often quoted for a 70B model in NVFP4 on a Spark."""
_QUOTED_FOR = (65e9, 75e9)


@dataclass(frozen=True)
class Wanted:
    """One wanted speed, and what it takes."""

    speed: float
    """Tokens per second, summed over the batch."""
    tokens_per_step: float
    """Tokens of each text that a step must yield if drafts and their check cost nothing."""
    with_costs: float
    """The same, drafts and check paid for."""
    acceptance: float | None
    """Chance with which each drafted token must be accepted; None where accepting all is not enough."""

    @property
    def drafts_accepted(self) -> float:
        """Of each step's drafted tokens; the step's own token comes besides."""
        return max(self.with_costs - 1, 0.0)


@dataclass(frozen=True)
class Drafts:
    """What drafts must do for one format."""

    row: Row
    plain: Band
    ceiling: float
    """Tokens per second that plain decoding never passes."""
    draft_length: int
    draft_cost: float
    """Time of drafting one token, against a step: assumed to be that of one layer in BF16, as an EAGLE-3 head is."""
    check_cost: float
    """Time of a step that checks the drafts, against one that makes a single token."""
    most: float
    """Tokens per step if every draft is accepted."""
    wanted: tuple[Wanted, ...]
    quoted: bool
    """The wanted speeds are the often quoted ones."""


def drafts(comparison: Comparison, wanted: Sequence[float] = ()) -> Drafts | None:
    """Reckon what wanted speeds take, for the format that one would serve; None where none fits, or without a GPU.

    Args:
        comparison: The formats.
        wanted: Tokens per second; twice and three times the plain speed where none is given, or what is often quoted.
    """
    row = _usual(comparison)
    if row is None or row.outlook.decode is None or row.outlook.ceiling is None:
        return None
    plain, load = row.outlook.decode, workload(row.question)
    cost = one_layer_bytes(comparison.subject.shape) / row.outlook.active_bytes_per_token
    check = max(check_cost_ratio(load, DRAFT_LENGTH), 1.0)
    paid = check + DRAFT_LENGTH * cost
    quoted = not wanted and _is_quoted(comparison)
    speeds = QUOTED if quoted else tuple(wanted) or (2 * plain.expected, 3 * plain.expected)
    return Drafts(
        row=row,
        plain=plain,
        ceiling=row.outlook.ceiling,
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
    """Choose what one would serve, else the smallest that fits."""
    fitting = [row for row in comparison.rows if row.outlook.fits and row.outlook.decode]
    name = usual_format(comparison.subject.shape.architecture, comparison.terms)
    usual = [row for row in fitting if row.format == name]
    return next(iter((*usual, *reversed(fitting))), None)


def _is_quoted(comparison: Comparison) -> bool:
    terms, shape = comparison.terms, comparison.subject.shape
    least, most = _QUOTED_FOR
    alike = not shape.is_moe and least < shape.parameters < most
    return alike and terms.target_name == "dgx-spark" and terms.batch == 1
