"""Which memory each step takes, and how much the target has for it."""

from __future__ import annotations

from orchestrator.catalog.target import Target
from orchestrator.planner.figures import Figure
from orchestrator.planner.weights import draft_bytes, weight_bytes
from orchestrator.recipe.model import Recipe

_ONEPASS_BYTES = 2 * 2**30
_BUILD_FACTOR = 17.8 / 5.7


def serve_capacity(recipe: Recipe, target: Target) -> float:
    """Bytes that the GPUs which serve have for weights, caches and activations, over all nodes."""
    if target.gpu is None or not target.gpu.count:
        return float(target.usable_memory)
    gpus = target.gpu.count * target.nodes
    return target.usable_memory * min(recipe.serve.tensor_parallel_size, gpus) / gpus


def build_capacity(target: Target) -> float:
    """Bytes of one node: quantizing and engine building do not spread over several."""
    return float(target.memory - target.reserve)


def serve_memory(recipe: Recipe) -> Figure:
    """Reckon what serving needs at least: the weights, and those of a draft."""
    weights = weight_bytes(recipe.model.parameters, recipe.quantization.format)
    draft = draft_bytes(recipe)
    if draft is None:
        return Figure(weights.value, "B", f"weights: {weights.basis}; the KV cache takes its share of what is left")
    basis = f"weights: {weights.basis}; draft: {draft.basis}; the KV cache takes its share of what is left"
    return Figure(weights.value + draft.value, "B", basis)


def quantize_memory(recipe: Recipe) -> Figure | None:
    """Reckon the peak of the quantize step; None where the checkpoint comes quantized."""
    match recipe.quantization.method:
        case "none":
            return None
        case "onepass":
            return Figure(_ONEPASS_BYTES, "B", "assumed for one tensor at a time; 2.1 GB is the largest of a 70B model")
        case "modelopt" | "trtllm":
            return _resident(recipe)


def engine_memory(recipe: Recipe) -> Figure | None:
    """Reckon the peak of convert and build; None without an engine."""
    if recipe.backend != "tensorrt":
        return None
    weights = weight_bytes(recipe.model.parameters, recipe.quantization.format)
    basis = "3.1 times the weights, as once measured for Llama 3.1 8B in NVFP4 on a Spark (17.8 GB for 5.7 GB)"
    return Figure(weights.value * _BUILD_FACTOR, "B", basis)


def _resident(recipe: Recipe) -> Figure:
    """The calibrating tools hold the whole model, unless hf_ptq.py is told otherwise."""
    options = recipe.quantization.options
    if options.get("low_memory_mode"):
        packed = weight_bytes(recipe.model.parameters, recipe.quantization.format)
        return Figure(packed.value, "B", f"the whole model, packed as it loads: {packed.basis}")
    whole = weight_bytes(recipe.model.parameters, "bf16")
    budget = _offload_budget(recipe)
    if budget is not None and budget < whole.value:
        return Figure(budget, "B", "max_gpu_memory_gb and max_cpu_memory_gb; the rest stays on disk")
    return Figure(whole.value, "B", f"the whole model at once: {whole.basis}")


def _offload_budget(recipe: Recipe) -> float | None:
    """Bytes that hf_ptq.py may hold when it offloads to a folder; on unified memory both budgets draw on one pool."""
    options = recipe.quantization.options
    if "offload_folder" not in options:
        return None
    parts = [options.get(name) for name in ("max_gpu_memory_gb", "max_cpu_memory_gb")]
    given = [float(part) * 1e9 for part in parts if isinstance(part, int | float)]
    return sum(given) if len(given) == len(parts) else None
