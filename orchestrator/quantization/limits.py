"""What is normal for a format: the limits of a comparison with the original where the recipe sets none.

Publications seldom give a divergence. Measured here on SmolLM2-135M, the divergence in nats is about 0.03 more than the
logarithm of the ratio of perplexities, in every format, so it follows from published perplexities.

Sources of the table:

- ModelOpt, `docs/source/announcements/local-hessian.rst`, Qwen3.5-9B in W4A4 with scales by `max` on WikiText:
  perplexity 9.20 → 10.08, so +9.6 %, and ln(10.08 / 9.20) + 0.03 = 0.12 nats.
- torchao #3981, an 8B: weights in NVFP4 alone lose 1.9 % of the original's scores, with activations 3.3 %; measured
  here on SmolLM2-135M: 0.252 against 0.467 nats, perplexity +26 % against +55 %. So weights alone cost half.
- FP8, measured here on SmolLM2-135M with 1,024 tokens: 0.044 nats, perplexity 9.55 → 9.71. Larger models lose less, in
  FP8 often less than the text's noise, so the smallest one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.quantization import configs
from orchestrator.quantization.format_names import LOCAL_HESSIAN, SEARCHED_FORMATS, WEIGHTED
from orchestrator.values import frozen

WORSE = 2.0
"""Times what is normal: a greater figure is a warning. Small models lose more: torchao #4303 has +19 % for NVFP4 of
Llama 3.2 1B, by words, twice the figure of a 9B."""
MUCH_WORSE = 3.0
"""Times what is normal: a greater figure fails. SmolLM2-135M in NVFP4 with scales by `max` is at four times."""


@frozen
class Figures:
    """What quantizing costs."""

    kl_divergence: float
    """In nats a token."""
    perplexity_increase: float
    """Relative: 0.01 is one percent."""

    def mixed(self, other: Figures, share: float) -> Figures:
        """Return the figures between these and others; a share of 0 gives these."""
        return Figures(
            self.kl_divergence + share * (other.kl_divergence - self.kl_divergence),
            self.perplexity_increase + share * (other.perplexity_increase - self.perplexity_increase),
        )


NORMAL: Mapping[str, Figures] = {
    "nvfp4": Figures(0.12, 0.10),
    "w4a16_nvfp4": Figures(0.06, 0.05),
    "fp8": Figures(0.045, 0.02),
}
"""By format, as a check's report names it. `normal` interpolates for several formats."""
_BITS = (4.5, 8.0)
"""Bits per weight of NVFP4 and FP8, scales included."""


@frozen
class Limit:
    """The limit on one figure."""

    most: float
    """A greater figure fails."""
    normal_up_to: float | None = None
    """A greater figure is a warning; None: no warning, because the recipe sets its own limit."""


@frozen
class Limits:
    """The limits on both figures; None is no limit."""

    kl_divergence: Limit | None = None
    perplexity_increase: Limit | None = None
    format: str = ""
    """The format whose normal figures are known, for people; empty if none are."""
    normal: Figures | None = None

    @property
    def document(self) -> dict[str, float | None]:
        """The entry in `quality.json`."""
        named = {"kl_divergence": self.kl_divergence, "perplexity_increase": self.perplexity_increase}
        most = {f"max_{name}": limit.most if limit else None for name, limit in named.items()}
        return most | {f"normal_{name}": limit.normal_up_to if limit else None for name, limit in named.items()}


def normal(number_format: str, bits_per_weight: float | None = None) -> Figures | None:
    """Return what is normal for a format; None if that is not known.

    Args:
        number_format: As a check's report names it.
        bits_per_weight: Of a checkpoint in several formats, as its quantizer counted them.
    """
    if number_format != configs.MIXED.lower():
        return NORMAL.get(number_format)
    if bits_per_weight is None:
        return None
    least, most = _BITS
    share = min(max((bits_per_weight - least) / (most - least), 0.0), 1.0)
    return NORMAL["nvfp4"].mixed(NORMAL["fp8"], share)


def limits(
    number_format: str,
    bits_per_weight: float | None = None,
    max_kl_divergence: float | None = None,
    max_perplexity_increase: float | None = None,
) -> Limits:
    """Return the limits: the recipe's own, else those of the format.

    Args:
        number_format: See `normal`.
        bits_per_weight: See `normal`.
        max_kl_divergence: The recipe's; None: it sets none.
        max_perplexity_increase: The recipe's; None: it sets none.
    """
    usual = normal(number_format, bits_per_weight)
    named = number_format.upper() if bits_per_weight is None else f"NVFP4 and FP8 at {bits_per_weight:.3g} bits"
    return Limits(
        _limit(max_kl_divergence, usual.kl_divergence if usual else None),
        _limit(max_perplexity_increase, usual.perplexity_increase if usual else None),
        named if usual else "",
        usual,
    )


def _limit(own: float | None, usual: float | None) -> Limit | None:
    if own is not None:
        return Limit(own)
    return None if usual is None else Limit(MUCH_WORSE * usual, WORSE * usual)


def other_ways(number_format: str, scale_search: str) -> list[str]:
    """Return what to change in a recipe, besides leaving modules out, so that a model loses less; the cheapest first.

    Args:
        number_format: See `normal`.
        scale_search: How the scales of NVFP4's blocks were chosen.
    """
    mixed = number_format == configs.MIXED.lower()
    ways = []
    if (mixed or number_format in SEARCHED_FORMATS) and scale_search not in (WEIGHTED, LOCAL_HESSIAN):
        ways.append(f"set scale_search: {WEIGHTED} (method onepass), at the same size")
    if number_format == "nvfp4":
        ways.append("quantize weights alone with format: w4a16_nvfp4")
    if mixed:
        ways.append("raise the budget")
    elif number_format in SEARCHED_FORMATS:
        ways.append("give more bits where they count most with format: auto and a budget")
    return ways
