"""What our own quantizer can, asked only by recipes that use it: it brings NumPy along, which loads slowly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class OnePass:
    """The bounds of method `onepass`."""

    formats: tuple[str, ...]
    kv_cache_formats: tuple[str, ...]
    architectures: tuple[str, ...]


@cache
def one_pass() -> OnePass:
    """Ask the quantizer itself."""
    from orchestrator.quantization.configs import KV_CACHE_FORMATS  # noqa: PLC0415 - see above
    from orchestrator.quantization.layout import ARCHITECTURES  # noqa: PLC0415
    from orchestrator.quantization.schemes import SCHEMES  # noqa: PLC0415

    return OnePass((*SCHEMES, "auto"), tuple(KV_CACHE_FORMATS), tuple(ARCHITECTURES))
