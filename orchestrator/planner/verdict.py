"""Gives a plan's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orchestrator.errors import Refusal

Verdict = Literal["fits", "fits, with these limits", "does not fit", "not supported"]


def verdict_of(refusals: Sequence[Refusal], warnings: Sequence[Refusal]) -> Verdict:
    """Summarize refusals and warnings in a few words."""
    if not refusals:
        return "fits, with these limits" if warnings else "fits"
    return "does not fit" if all(refusal.code == "DOES_NOT_FIT" for refusal in refusals) else "not supported"
