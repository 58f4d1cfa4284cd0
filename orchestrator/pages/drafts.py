"""What drafts must do for a wanted speed, in sentences."""

from __future__ import annotations

from orchestrator.planner.drafts import Drafts, Wanted
from orchestrator.planner.figures import gigabytes

_LARGE = 1000
"""Speeds from here on are written whole."""


def words(found: Drafts) -> tuple[str, ...]:
    """Say it in sentences."""
    plain, read = found.plain, found.row.outlook.active_bytes_per_token
    often = (
        "The often quoted 18 to 20 tokens/s of a 70B model in NVFP4 are not plain decoding. " if found.quoted else ""
    )
    lines = [
        (
            f"{often}"
            f"Plain decoding of one step's {gigabytes(read)} in {found.row.label} stays below"
            f" {found.ceiling:,.1f} tokens/s on this machine; about {plain.expected:,.1f} is expected. Only drafted"
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
    speed = f"{wanted.speed:,.0f} tokens/s" if wanted.speed >= _LARGE else f"{wanted.speed:.3g} tokens/s"
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
