"""A number that says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["B", "tok/s", "tokens", "requests"]

Kind = Literal["exact", "formula", "measured", "assumed"]
"""What a figure rests on: bytes of tensors, a formula of sizes, a measured constant, or a round number of ours.

The weakest part of a sum names it; its `basis` has the whole, with sources.
"""


@dataclass(frozen=True)
class Figure:
    """A predicted quantity."""

    value: float
    unit: Unit
    basis: str
    """How it was calculated, in words, with what was left out."""
    kind: Kind = "formula"
    band: tuple[float, float] | None = None
    """Between which values it should be, where it is not exact."""
    conditions: str = ""
    """What it was asked for, shown beside it: `1 request at 4,096 tokens, …`."""

    def __str__(self) -> str:
        """Write it for people: `39.7 GB`, `6.9 tok/s`, `6.1 tok/s (5.5 to 6.7)`."""
        if self.unit == "B":
            return gigabytes(self.value)
        if self.unit == "requests":
            return f"{self.value:,.0f}"
        if self.unit == "tokens":
            return f"{self.value:,.0f} tokens"
        around = f" ({_short(self.band[0])} to {_short(self.band[1])})" if self.band else ""
        return f"{_short(self.value)} {self.unit}{around}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"  # noqa: PLR2004 - three digits say enough


def requests(count: float) -> str:
    """Write how many requests are served at the same time: `1 request`, `8 requests`."""
    return "1 request" if count == 1 else f"{count:,.0f} requests"


def in_words(count: float) -> str:
    """Write a number of parameters: `70.55 billion`, `2.886 million`."""
    return f"{count / 1e9:.4g} billion" if count >= 1e9 else f"{count / 1e6:.4g} million"  # noqa: PLR2004 - a billion


def gigabytes(value: float) -> str:
    """Write bytes as decimal gigabytes, or megabytes where they are few."""
    return f"{value / 1e9:.1f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"  # noqa: PLR2004 - 0.1 GB
