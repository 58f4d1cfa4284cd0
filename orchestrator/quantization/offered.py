"""What a plan knows of quantizing and comparing; apart from what does it and brings NumPy: no plan waits for that."""

from __future__ import annotations

AUTO = "auto"
"""A format of its own for each group of modules."""
SINGLE_FORMATS = ("w4a16_nvfp4", "nvfp4", "fp8")
"""One for the whole model: the keys of `schemes.SCHEMES`."""
FORMATS = (*SINGLE_FORMATS, AUTO)
KV_CACHE_FORMATS = ("none", "fp8")
PROBE_TOKENS = 4096
"""Tokens that are enough to measure a layer's error: the mean of so many moves by a few percent with others."""
