"""Defines a figure: a number with its basis."""

from __future__ import annotations

from typing import Literal

from orchestrator.units import in_bytes
from orchestrator.values import frozen

Unit = Literal["B", "tok/s", "tokens", "requests"]

Kind = Literal["exact", "formula", "measured", "assumed", "bound"]
"""What a figure is based on: bytes of tensors, a formula of sizes, a measured constant, or a rounded assumption; or it
is a lower bound, to which something unknown is added.

A sum is named after its least certain part. Its `basis` has every part with its source.
"""


@frozen
class Figure:
    """A predicted quantity."""

    value: float
    unit: Unit
    basis: str
    """How it was calculated, in words, with what was left out."""
    kind: Kind = "formula"
    band: tuple[float, float] | None = None
    """The expected range if it is not exact."""
    conditions: str = ""
    """Its conditions, shown beside it: `1 request at 4,096 tokens, …`."""

    def __str__(self) -> str:
        """Format it for people: `39.7 GB`, `6.9 tok/s`, `6.1 tok/s (5.5 to 6.7)`."""
        if self.unit == "B":
            return in_bytes(self.value)
        if self.unit == "requests":
            return f"{self.value:,.0f}"
        if self.unit == "tokens":
            return f"{self.value:,.0f} tokens"
        around = f" ({_short(self.band[0])} to {_short(self.band[1])})" if self.band else ""
        return f"{_short(self.value)} {self.unit}{around}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004 - three digits are enough


def requests(count: float) -> str:
    """Format a number of concurrent requests: `1 request`, `8 requests`."""
    if count == 1:
        return "1 request"
    return f"{count:,.0f} requests" if count == round(count) else f"{count:,.3g} requests"


def seconds_in_words(seconds: float) -> str:
    """Format a short time: `18 ms`, `1.4 s`, `25 s`."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"  # noqa: PLR2004 - two digits are enough


def users_in_words(users: int) -> str:
    """Format a number of users: `1 user`, `8 users`."""
    return "1 user" if users == 1 else f"{users:,} users"


def workload_words(users: int, context: int, answer: int) -> str:
    """Format a workload: `1 user, 3,584 tokens in and 512 out`; without an answer `8 requests at 4,096 tokens`."""
    if not answer:
        return f"{requests(users)} at {context:,} tokens"
    return f"{users_in_words(users)}, {context - answer:,} tokens in and {answer:,} out"


def in_words(count: float) -> str:
    """Format a number of parameters: `70.55 billion`, `2.886 million`."""
    return f"{count / 1e9:.4g} billion" if count >= 1e9 else f"{count / 1e6:.4g} million"  # noqa: PLR2004 - a billion
