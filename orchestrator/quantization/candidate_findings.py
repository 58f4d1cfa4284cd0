"""Tells what a comparison of candidates found, with intervals, and which candidate is the best.

The lowest divergence wins. Others whose difference from it may be none are tied with it: the interval of 95 % of the
paired difference has 0. Of these, the best is the one that takes the least to quantize.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization.intervals import half_width_of_ratio
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from orchestrator.quantization.candidates import Candidate

FILE = "candidates.json"


@dataclass
class Sums:
    """Sums over the tokens of each sequence, of one model."""

    divergence: NDArray[np.float64]
    agreed: NDArray[np.float64]
    """Tokens for which the original predicts the same next one."""
    surprise: NDArray[np.float64]
    """Of -ln p(next token)."""

    @classmethod
    def zero(cls, sequences: int) -> Sums:
        """Begin."""
        return cls(*np.zeros((3, sequences)))


@dataclass
class Findings:
    """What the walk found. Sequences without a token that another one follows are left out."""

    candidates: Sequence[Candidate]
    tokens: NDArray[np.int64]
    """Of each sequence, those that another one follows."""
    original: NDArray[np.float64]
    """Sums of -ln p(next token) of each sequence, of the original."""
    sums: Mapping[str, Sums]
    """By candidate."""
    layers: Sequence[LayerFindings] = ()

    def document(self) -> dict[str, Any]:
        """Return the content of the file: for each candidate its figures, and how far it is behind the lowest."""
        lowest = min(self.candidates, key=lambda one: (float(self.sums[one.name].divergence.sum()), one.effort))
        rows = [self._row(candidate, self.sums[lowest.name]) for candidate in self.candidates]
        tied = [one for one, row in zip(self.candidates, rows, strict=True) if one == lowest or _is_zero(row["behind"])]
        return {
            "tokens": int(self.tokens.sum()),
            "sequences": len(self.tokens),
            "original": {"perplexity": _short(self._perplexity(self.original))},
            "candidates": rows,
            "lowest": lowest.name,
            "tied": [one.name for one in tied],
            "best": min(tied, key=lambda one: one.effort).name,
            "layers": [layer.document() for layer in self.layers],
        }

    def _row(self, candidate: Candidate, lowest: Sums) -> dict[str, Any]:
        own = self.sums[candidate.name]
        worse = self._mean(own.surprise - self.original)
        return {
            "name": candidate.name,
            "divergence": self._mean(own.divergence),
            "behind": self._mean(own.divergence - lowest.divergence),
            "perplexity": _short(self._perplexity(own.surprise)),
            "perplexity_increase": {
                key: None if value is None else _short(math.expm1(value)) for key, value in worse.items()
            },
            "agreement": self._mean(own.agreed),
            "as_mse": sum(layer.as_mse[candidate.name] for layer in self.layers),
        }

    def _mean(self, sums: NDArray[np.float64]) -> dict[str, float | None]:
        """Return a mean over tokens with its interval of 95 %, paired over sequences if sums are of differences."""
        mean, half = float(sums.sum()) / int(self.tokens.sum()), half_width_of_ratio(sums, self.tokens)
        low, high = (None, None) if half is None else (_short(mean - half), _short(mean + half))
        return {"mean": _short(mean), "low": low, "high": high}

    def _perplexity(self, surprise: NDArray[np.float64]) -> float:
        return math.exp(float(surprise.sum()) / int(self.tokens.sum()))


@frozen
class LayerFindings:
    """One layer."""

    layer: int
    errors: dict[str, float]
    """By candidate, the relative error of the layer's output if everything before it is quantized, too."""
    as_mse: dict[str, int]
    """By candidate, modules of which calibration saw too little, and which are searched by `mse` and rounded to the
    nearest."""

    def document(self) -> dict[str, Any]:
        """Return its entry in the file."""
        return {"layer": self.layer, "errors": {name: _short(error) for name, error in self.errors.items()}}

    @classmethod
    def restored(cls, entry: Mapping[str, Any]) -> LayerFindings:
        """Make it from the output of `dataclasses.asdict`."""
        return cls(**entry)


def _is_zero(behind: Mapping[str, float | None]) -> bool:
    """Tell whether a difference may be none: its interval has 0."""
    return behind["low"] is not None and behind["low"] <= 0


def _short(number: float) -> float:
    """Keep six digits, because the others differ between processors."""
    return float(f"{number:.6g}")
