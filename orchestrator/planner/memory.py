"""Which memory each step takes, and how much the target has for it."""

from __future__ import annotations

from orchestrator.catalog.target import Target
from orchestrator.planner.bytes import checkpoint_bytes, largest_layer
from orchestrator.planner.figures import Figure, gigabytes
from orchestrator.planner.known import Known, known_model
from orchestrator.planner.scheme import Scheme, scheme_of
from orchestrator.planner.serving import Serving, max_batch, max_context, room_per_gpu
from orchestrator.planner.shapes.model import ModelShape
from orchestrator.planner.weights import draft_bytes, served_weights, source_weights
from orchestrator.recipe.model import Calibration, Recipe

ONEPASS_BYTES = 2 * 2**30
"""What our own quantizer takes at most besides layers of the model."""
BUILD_FACTOR = 17.8 / 5.7
"""Times the weights that converting and building take."""
BUILD_BASIS = "3.1 times the weights, as once measured for Llama 3.1 8B in NVFP4 on a Spark (17.8 GB for 5.7 GB)"
_TYPICAL_TEXT = 4096


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
    """Reckon what serving needs at least: the weights, those of a draft, and of a known model room for one text."""
    weights = served_weights(recipe)
    draft = draft_bytes(recipe)
    parts = [f"weights: {weights.basis}"]
    total = weights.value
    if draft is not None:
        parts.append(f"draft: {draft.basis}")
        total += draft.value
    known = known_model(recipe)
    if known is not None:
        serving = serving_of(recipe, known, batch=1, context=_typical(recipe, known))
        extra = (serving.cache + serving.workspace) * serving.gpus
        total += extra
        parts.append(f"{extra / 1e9:.1f} GB for activations and one text of {serving.context} tokens, by formula")
    parts.append("the KV cache takes its share of what is left")
    return Figure(total, "B", "; ".join(parts))


def serving_of(recipe: Recipe, known: Known, *, batch: int, context: int) -> Serving:
    """Say what a recipe serves."""
    draft = draft_bytes(recipe)
    return Serving(
        known.shape,
        known.served,
        known.kv_dtype,
        batch=batch,
        context=context,
        gpus=recipe.serve.tensor_parallel_size,
        tokens_per_step=recipe.serve.max_num_tokens,
        draft=draft.value if draft else 0.0,
    )


def load_memory(recipe: Recipe, target: Target) -> Figure | None:
    """Reckon the peak while the weights load; None where the model's sizes are not known."""
    known = known_model(recipe)
    if known is None or recipe.backend == "tensorrt":
        return None
    serving = serving_of(recipe, known, batch=1, context=1)
    basis = "weights, and one file of them in the page cache besides" if target.unified_memory else "weights"
    return Figure(serving.load_peak(target) * serving.gpus, "B", basis)


def longest_text(recipe: Recipe, target: Target) -> Figure | None:
    """Reckon the most tokens of a single text; None where the model's sizes are not known, or nothing can serve it."""
    known = known_model(recipe)
    if known is None or target.gpu is None:
        return None
    found = max_context(serving_of(recipe, known, batch=1, context=1), _cache_room(recipe, known, target))
    limit = recipe.serve.max_seq_len or known.shape.max_position
    value = min(found, limit)
    reason = "the recipe's or the model's own limit" if value == limit else "what the KV cache has room for"
    return Figure(value, "tokens", f"one text, question and answer: {reason}")


def most_texts(recipe: Recipe, target: Target) -> Figure | None:
    """Reckon how many texts of usual length fit at once; None where sizes are not known, or nothing can serve it."""
    known = known_model(recipe)
    if known is None or target.gpu is None:
        return None
    context = _typical(recipe, known)
    serving = serving_of(recipe, known, batch=1, context=context)
    found = max_batch(serving, _cache_room(recipe, known, target))
    limit = recipe.serve.max_batch_size
    reason = "serve.max_batch_size" if found >= limit else "what the KV cache has room for"
    return Figure(
        min(found, limit), "texts", f"of {context} tokens each, at once: {reason}; memory alone allows {found}"
    )


def _cache_room(recipe: Recipe, known: Known, target: Target) -> float:
    """Bytes of one GPU when the cache may only have its fraction of what the weights leave."""
    serving = serving_of(recipe, known, batch=1, context=1)
    room = room_per_gpu(target)
    fixed = serving.weights + serving.workspace
    return fixed + max(room - fixed, 0.0) * recipe.serve.kv_cache.free_gpu_memory_fraction


def _typical(recipe: Recipe, known: Known) -> int:
    return min(_TYPICAL_TEXT, known.shape.max_position, recipe.serve.max_seq_len or _TYPICAL_TEXT)


def quantize_memory(recipe: Recipe) -> Figure | None:
    """Reckon the peak of the quantize step; None where the checkpoint comes quantized."""
    match recipe.quantization.method:
        case "none":
            return None
        case "onepass":
            return _one_pass(recipe)
        case "modelopt" | "trtllm":
            return _resident(recipe)


def engine_memory(recipe: Recipe) -> Figure | None:
    """Reckon the peak of convert and build; None without an engine."""
    if recipe.backend != "tensorrt":
        return None
    weights = served_weights(recipe)
    return Figure(weights.value * BUILD_FACTOR, "B", BUILD_BASIS)


def one_pass_peak(shape: ModelShape, scheme: Scheme, calibration: Calibration) -> Figure:
    """Reckon the peak of our own quantizer.

    Weights alone are walked over in small pieces. Calibration runs the layers one after the other: one is read while
    the last one runs and the one before is written, and what flows from layer to layer is kept for all samples.
    """
    if scheme.algorithm == "W4A16_NVFP4" and not scheme.kv_scales:
        return Figure(
            ONEPASS_BYTES, "B", "method onepass: assumed for one piece of a tensor at a time, whatever the model"
        )
    layer = largest_layer(shape)
    flowing = 2 * shape.hidden_size * calibration.samples * calibration.sequence_length
    basis = (
        f"method onepass: three layers of {gigabytes(layer)}, {gigabytes(flowing)} that flow between them for"
        f" {calibration.samples} samples of {calibration.sequence_length} tokens, and 2 GiB assumed for the rest"
    )
    return Figure(ONEPASS_BYTES + 3 * layer + flowing, "B", basis)


def resident_peak(shape: ModelShape) -> Figure:
    """Reckon the peak of a tool that calibrates the whole model at once."""
    whole = checkpoint_bytes(shape, scheme_of("bf16"))
    return Figure(whole, "B", "method modelopt: the whole model in BF16, exact bytes; activations are not counted")


def _one_pass(recipe: Recipe) -> Figure:
    known = known_model(recipe)
    if known is None:
        return Figure(ONEPASS_BYTES, "B", "assumed for one piece of a tensor at a time; calibration adds a few layers")
    return one_pass_peak(known.shape, known.served, recipe.quantization.calibration)


def _resident(recipe: Recipe) -> Figure:
    """The calibrating tools hold the whole model, unless hf_ptq.py is told otherwise."""
    options = recipe.quantization.options
    if options.get("low_memory_mode"):
        packed = served_weights(recipe)
        return Figure(packed.value, "B", f"the whole model, packed as it loads: {packed.basis}")
    whole = source_weights(recipe)
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
