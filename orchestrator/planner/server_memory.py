"""Calculates the memory that a server may give its KV cache, for runtimes that are told in bytes."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.planner.model_on_target import ModelOnTarget
from orchestrator.planner.serving import gpus_of, memory_per_gpu
from orchestrator.serving.server import CacheMemory

_ASSUMED_WORKSPACE = 2 * 2**30
"""Bytes of activations and captured graphs if the model's sizes are not known: assumed, not measured."""
_LEAST = 2**20


def cache_memory(model: ModelOnTarget) -> CacheMemory:
    """Calculate it: the recipe's share of what weights and activations leave of the memory that CUDA sees.

    Args:
        model: The recipe's model on its target. If its sizes are not known, its parameters decide.
    """
    target, serving = model.target, model.serving
    if serving is not None:
        one = replace(serving, batch=1)
        fixed, visible = one.weights + one.workspace, serving.visible
    else:
        draft = model.draft.value if model.draft else 0.0
        fixed = (model.weights.value + draft) / max(1, model.gpus) + _ASSUMED_WORKSPACE
        visible = min(memory_per_gpu(target), target.cuda_free or memory_per_gpu(target))
    cache = max(visible - fixed, 0.0) * model.recipe.serve.kv_cache.free_gpu_memory_fraction
    whole = target.memory * target.nodes / gpus_of(target)
    return CacheMemory(max(int(cache), _LEAST), min((fixed + cache) / whole, 1.0))
