"""Defines the planner's facts about quantizing and comparing, without NumPy, so that a plan loads quickly."""

from __future__ import annotations

AUTO = "auto"
"""The format name for a separate choice for each group of modules."""
SINGLE_FORMATS = ("w4a16_nvfp4", "nvfp4", "fp8")
"""Format names for the whole model: the keys of `schemes.SCHEMES`."""
FORMATS = (*SINGLE_FORMATS, AUTO)
MAX, MSE, FOUR_OVER_SIX, WEIGHTED = SCALE_SEARCHES = ("max", "mse", "four_over_six", "weighted")
"""How the scales of NVFP4's blocks are chosen, see `formats.nvfp4`."""
SEARCHED_FORMATS = ("w4a16_nvfp4", "nvfp4", AUTO)
"""Formats with such blocks."""
KV_CACHE_FORMATS = ("none", "fp8")
PROBE_TOKENS = 4096
"""Enough tokens to measure a layer's error: with others its mean changes by a few percent."""
