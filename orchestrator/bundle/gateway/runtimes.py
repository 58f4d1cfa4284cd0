"""Finds the module of a runtime. Nothing else in the gateway depends on which runtime a bundle has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import trtllm, vllm
from .starting import RuntimeKind

RUNTIMES: Mapping[str, RuntimeKind] = MappingProxyType({"tensorrt_llm": trtllm, "vllm": vllm})
"""By the key of the version in `serve.json`."""
