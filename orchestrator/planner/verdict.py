"""Gives a plan's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orchestrator.errors import Refusal

Verdict = Literal["fits", "fits, with these limits", "may not fit", "does not fit", "not supported"]

ENGINE_MEMORY = "ENGINE_MEMORY"
"""The code of the warning that a TensorRT engine may not be built in the target's memory."""
SERVING_MEMORY = "SERVING_MEMORY"
"""The code of the warning that a model of unknown sizes may not be served in it."""


def verdict_of(refusals: Sequence[Refusal], warnings: Sequence[Refusal]) -> Verdict:
    """Summarize refusals and warnings in a few words."""
    if not refusals:
        if any(warning.code in (ENGINE_MEMORY, SERVING_MEMORY) for warning in warnings):
            return "may not fit"
        return "fits, with these limits" if warnings else "fits"
    return "does not fit" if all(refusal.code == "DOES_NOT_FIT" for refusal in refusals) else "not supported"
