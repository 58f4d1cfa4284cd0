"""A number that says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["B", "tok/s"]


@dataclass(frozen=True)
class Figure:
    """A predicted quantity."""

    value: float
    unit: Unit
    basis: str
    """How it was reckoned, in words, with what was left out."""

    def __str__(self) -> str:
        """Write it for people: `39.7 GB`, `6.9 tok/s`."""
        return gigabytes(self.value) if self.unit == "B" else f"{self.value:.1f} {self.unit}"


def gigabytes(value: float) -> str:
    """Write bytes as decimal gigabytes, or megabytes where they are few."""
    return f"{value / 1e9:.1f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"  # noqa: PLR2004 - 0.1 GB
