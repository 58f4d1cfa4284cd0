"""Finds the module of a runtime. Nothing else in the gateway depends on which runtime a bundle has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from . import edge_llm, trtllm, vllm
from .starting import RuntimeKind

RUNTIMES: Mapping[str, RuntimeKind] = MappingProxyType({"tensorrt_llm": trtllm, "vllm": vllm, "edge_llm": edge_llm})
"""By the key of the version in `serve.json`."""
