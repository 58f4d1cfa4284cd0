"""How many drafted tokens must be accepted for a wanted speed: what plain decoding cannot give, drafts may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.pages.comparison import Comparison, Row, usual_format
from orchestrator.planner.scheme import scheme_of
from orchestrator.planner.shapes.model import ModelShape
from orchestrator.planner.speculative import acceptance_for, check_cost_ratio, tokens_needed, tokens_per_step
from orchestrator.planner.speed import Band, workload

DRAFT_LENGTH = 5
"""Tokens drafted per step: what NVIDIA's playbook for EAGLE-3 on a Spark sets."""

QUOTED = (18.0, 20.0)
"""Tokens per second that are often quoted for a 70B model in NVFP4 on a Spark."""
_QUOTED_FOR = (65e9, 75e9)
_BYTES_OF_BF16 = 2


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
    if row is None or row.outlook.decode is None or row.ceiling is None:
        return None
    shape, terms, plain = comparison.subject.shape, comparison.terms, row.outlook.decode
    load = workload(
        shape,
        format=comparison.subject.schemes.get(row.format) or scheme_of(row.format),
        kv_dtype=terms.kv_dtype,
        target=terms.target,
        engine=terms.engine,
        batch=terms.batch,
        context=terms.context,
        gpus=terms.gpus,
    )
    cost, check = _one_layer(shape) / row.read, max(check_cost_ratio(load, DRAFT_LENGTH), 1.0)
    paid = check + DRAFT_LENGTH * cost
    quoted = not wanted and _is_quoted(comparison)
    speeds = QUOTED if quoted else tuple(wanted) or (2 * plain.expected, 3 * plain.expected)
    return Drafts(
        row=row,
        plain=plain,
        ceiling=row.ceiling,
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
    name = usual_format(comparison.subject.shape, comparison.terms)
    usual = [row for row in fitting if row.format == name]
    return next(iter((*usual, *reversed(fitting))), None)


def _is_quoted(comparison: Comparison) -> bool:
    terms, shape = comparison.terms, comparison.subject.shape
    least, most = _QUOTED_FOR
    alike = not shape.is_moe and least < shape.parameters < most
    return alike and terms.target_name == "dgx-spark" and terms.batch == 1


def _one_layer(shape: ModelShape) -> float:
    """Give the bytes that one layer in BF16 reads for a token: the last one, which in a mixture has experts."""
    last = max((tensor.layer for tensor in shape.tensors if tensor.layer is not None), default=0)
    return _BYTES_OF_BF16 * sum(tensor.elements * tensor.used for tensor in shape.tensors if tensor.layer == last)


def words(found: Drafts) -> tuple[str, ...]:
    """Say it in sentences."""
    plain = found.plain
    often = (
        "The often quoted 18 to 20 tokens/s of a 70B model in NVFP4 are not plain decoding. " if found.quoted else ""
    )
    lines = [
        (
            f"{often}"
            f"Plain decoding of one step's {found.row.read / 1e9:.1f} GB in {found.row.label} stays below"
            f" {found.ceiling:.1f} tokens/s on this machine; about {plain.expected:.1f} is expected. Only drafted"
            f" tokens that the model accepts take it further: several tokens then share one reading of the weights."
        )
    ]
    lines += [_words(found, wanted) for wanted in found.wanted]
    lines.append(
        f"Reckoned with {found.draft_length} drafted tokens per step, each {found.draft_cost:.0%} of a step (one layer"
        f" in BF16, as an EAGLE-3 head is), checked in {found.check_cost:.2f} times a step."
    )
    return tuple(lines)


def _words(found: Drafts, wanted: Wanted) -> str:
    speed = f"{wanted.speed:.3g} tokens/s"
    if wanted.speed <= found.plain.expected:
        return f"{speed} needs no drafts."
    if wanted.acceptance is None:
        return (
            f"{speed} takes {wanted.with_costs:.1f} tokens per step, drafts and their check paid for, and"
            f" {found.draft_length} drafts give at most {found.most:.0f}: not to be had this way."
        )
    return (
        f"{speed} takes {wanted.with_costs:.1f} tokens per step, drafts and their check paid for"
        f" ({wanted.tokens_per_step:.1f} if they were free): {wanted.drafts_accepted:.1f} of {found.draft_length}"
        f" drafts accepted on average, which is an acceptance of {wanted.acceptance:.0%} for each."
    )
