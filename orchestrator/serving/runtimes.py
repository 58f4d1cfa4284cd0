"""Finds the module of a runtime. Nothing else depends on which runtime an image has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.catalog.image import Image, RuntimeName
from orchestrator.serving import edge_llm, trtllm, vllm
from orchestrator.serving.server import Runtime

RUNTIMES: Mapping[RuntimeName, Runtime] = MappingProxyType({"tensorrt_llm": trtllm, "vllm": vllm, "edge_llm": edge_llm})


def runtime_of(image: Image) -> Runtime:
    """Return the runtime of an image."""
    return RUNTIMES[image.runtime]


def runtime_with_costs(name: str) -> Runtime | None:
    """Find a runtime by its name in the planner's constants; None if no image has it."""
    return next((runtime for runtime in RUNTIMES.values() if name == runtime.COSTS), None)
