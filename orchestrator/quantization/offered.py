"""What the one pass makes, by name; apart from what makes it, which brings NumPy: no plan should wait for that."""

from __future__ import annotations

AUTO = "auto"
"""A format of its own for each group of modules."""
SINGLE_FORMATS = ("w4a16_nvfp4", "nvfp4", "fp8")
"""One for the whole model: the keys of `schemes.SCHEMES`."""
FORMATS = (*SINGLE_FORMATS, AUTO)
KV_CACHE_FORMATS = ("none", "fp8")
