"""Describes the required drafts for a target speed in sentences."""

from __future__ import annotations

from orchestrator.planner.drafts import Drafts, Wanted
from orchestrator.planner.figures import workload_words
from orchestrator.units import in_bytes

_LARGE = 1000
"""Speeds from here on are written whole."""


def draft_sentences(found: Drafts) -> tuple[str, ...]:
    """Say it in sentences."""
    plain, read, serving = found.plain, found.row.figures.active_bytes_per_token, found.row.serving
    often = (
        "The often quoted 18 to 20 tokens/s of a 70B model in NVFP4 need speculative decoding. " if found.quoted else ""
    )
    asked = workload_words(serving.batch, serving.context, serving.output_tokens)
    lines = [
        (
            f"{often}"
            f"One step reads {in_bytes(read)} of weights in {found.row.label}: without speculative decoding,"
            f" {asked} cannot pass {found.ceiling:,.1f} tokens/s on"
            f" this machine, and {plain.expected:,.1f} are expected. Only drafted tokens that the model accepts make it"
            f" faster: several tokens then share one reading of the weights."
        )
    ]
    lines += [_words(found, wanted) for wanted in found.wanted]
    lines.append(
        f"Calculated with {found.draft_length} drafted tokens per step, each {found.draft_cost:.0%} of a step (one"
        f" layer in BF16, as an EAGLE-3 head is), checked in {found.check_cost:.2f} times a step."
    )
    return tuple(lines)


def _words(found: Drafts, wanted: Wanted) -> str:
    speed = f"{wanted.speed:,.0f} tokens/s" if wanted.speed >= _LARGE else f"{wanted.speed:.3g} tokens/s"
    if wanted.speed <= found.plain.expected:
        return f"{speed} needs no speculative decoding."
    if wanted.acceptance is None:
        return (
            f"{speed} needs {wanted.with_costs:.1f} tokens per step, costs of drafting and checking included;"
            f" {found.draft_length} drafts give {found.most:.0f} at most, so drafts cannot reach it."
        )
    return (
        f"{speed} needs speculative decoding with {wanted.acceptance:.0%} acceptance: {wanted.with_costs:.1f} tokens"
        f" per step, costs of drafting and checking included ({wanted.tokens_per_step:.1f} without them), which is"
        f" {wanted.drafts_accepted:.1f} of {found.draft_length} drafts accepted on average."
    )
