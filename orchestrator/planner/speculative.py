"""Calculates speculative decoding: the cost of drafts, accepted tokens, and the acceptance for a target speed.

Leviathan, Kalman, Matias: Fast Inference from Transformers via Speculative Decoding, 2023 (arXiv:2211.17192). With
`a` the chance that a drafted token is accepted, each independently, a step that checks `k` of them yields
(1 - a^(k+1)) / (1 - a) tokens on average, with its own (equation 1 of the paper).
"""

from __future__ import annotations

import math

from orchestrator.errors import SpeedInputError
from orchestrator.models.shape import ModelShape
from orchestrator.planner.speed import Band
from orchestrator.planner.step_time import Load, step_terms, total
from orchestrator.values import frozen

_MOST_DRAFTS = 256
_HALVINGS = 60
_BYTES_OF_BF16 = 2


@frozen
class Speculation:
    """A speed with drafts."""

    speed: Band
    """Tokens per second, sum over the batch."""
    tokens_per_step: float
    """Tokens per request and step: the accepted ones and the step's own."""
    gain: float
    """Relative to decoding without drafts."""
    basis: str


def speculative(
    plain: Band, *, draft_cost_ratio: float, draft_len: int, acceptance: float, check_cost_ratio: float = 1.0
) -> Speculation:
    """Estimate the speed with drafts.

    Args:
        plain: The speed without.
        draft_cost_ratio: Time to draft one token, relative to a step of the model; 0 if the drafts cost nothing.
        draft_len: Tokens drafted per step.
        acceptance: Chance that a drafted token is accepted, from 0 to 1.
        check_cost_ratio: Time of a step that checks the drafts, relative to one that generates a single token.

    Raises:
        SpeedInputError: An impossible number.
    """
    _check(plain, draft_cost_ratio, draft_len, check_cost_ratio)
    if not (math.isfinite(acceptance) and 0 <= acceptance <= 1):
        message = f"acceptance: found {acceptance!r:.60}, expected a share from 0 to 1"
        raise SpeedInputError(message)
    tokens = tokens_per_step(draft_len, acceptance)
    cost = check_cost_ratio + draft_len * draft_cost_ratio
    basis = (
        f"{tokens:.3g} tokens per step ({draft_len} drafted, {acceptance:.0%} accepted each), "
        f"in {cost:.3g} times the time of a plain one"
    )
    return Speculation(plain.scaled(tokens / cost), tokens, tokens / cost, basis)


def tokens_per_step(draft_len: int, acceptance: float) -> float:
    """Return the mean number of tokens that one step yields."""
    return sum(acceptance**number for number in range(draft_len + 1))


def acceptance_for(
    wanted: float, plain: Band, *, draft_cost_ratio: float, draft_len: int, check_cost_ratio: float = 1.0
) -> float | None:
    """Find the acceptance for a target speed; None if even accepting all drafts is not enough.

    Args:
        wanted: Tokens per second, sum over the batch.
        plain: The speed without drafts. Its expected value counts.
        draft_cost_ratio: As in `speculative`.
        draft_len: As in `speculative`.
        check_cost_ratio: As in `speculative`.

    Raises:
        SpeedInputError: An impossible number.
    """
    _check(plain, draft_cost_ratio, draft_len, check_cost_ratio)
    needed = tokens_needed(wanted, plain.expected) * (check_cost_ratio + draft_len * draft_cost_ratio)
    if needed > draft_len + 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_step(draft_len, middle) < needed else (low, middle)
    return high


def tokens_needed(wanted: float, plain: float) -> float:
    """Return the tokens that each step must yield for a target speed if drafts and checks cost nothing.

    Raises:
        SpeedInputError: A speed that is not above 0.
    """
    for name, value in (("wanted", wanted), ("plain", plain)):
        if not (math.isfinite(value) and value > 0):
            message = f"{name}: found {value!r:.60}, expected tokens per second above 0"
            raise SpeedInputError(message)
    return wanted / plain


def check_cost_ratio(load: Load, draft_len: int) -> float:
    """Calculate the cost of a step that checks drafts: more products, more experts, the same cache and launches."""
    plain = total(step_terms(load), load.runtime)
    return total(step_terms(load, draft_len + 1), load.runtime) / plain


def one_layer_bytes(shape: ModelShape) -> float:
    """Return the bytes that one layer in BF16 reads for a token: the last one, which in a mixture has experts."""
    last = max((tensor.layer for tensor in shape.tensors if tensor.layer is not None), default=0)
    return _BYTES_OF_BF16 * sum(tensor.elements * tensor.used for tensor in shape.tensors if tensor.layer == last)


def _check(plain: Band, draft_cost_ratio: float, draft_len: int, check: float) -> None:
    if type(draft_len) is not int or not 1 <= draft_len <= _MOST_DRAFTS:
        message = f"draft_len: found {draft_len!r:.60}, expected a whole number from 1 to {_MOST_DRAFTS}"
        raise SpeedInputError(message)
    if not (math.isfinite(draft_cost_ratio) and draft_cost_ratio >= 0):
        message = f"draft_cost_ratio: found {draft_cost_ratio!r:.60}, expected a number from 0"
        raise SpeedInputError(message)
    if not (math.isfinite(check) and check >= 1):
        message = f"check_cost_ratio: found {check!r:.60}, expected a number from 1"
        raise SpeedInputError(message)
    if not (math.isfinite(plain.expected) and plain.expected > 0):
        message = f"plain: found {plain.expected!r:.60}, expected tokens per second above 0"
        raise SpeedInputError(message)
