"""Which memory the steps take that make what is served, and how much the target has for them."""

from __future__ import annotations

from orchestrator.catalog.target import Target
from orchestrator.planner.bytes import checkpoint_bytes, largest_layer
from orchestrator.planner.figures import Figure, gigabytes
from orchestrator.planner.known import known_model
from orchestrator.planner.scheme import Scheme, scheme_of
from orchestrator.planner.shapes.model import ModelShape
from orchestrator.planner.weights import served_weights, source_weights
from orchestrator.recipe.model import Calibration, Recipe

ONEPASS_BYTES = 2 * 2**30
"""What our own quantizer takes at most besides layers of the model."""
BUILD_FACTOR = 17.8 / 5.7
"""Times the weights that converting and building take."""
BUILD_BASIS = "3.1 times the weights, as once measured for Llama 3.1 8B in NVFP4 on a Spark (17.8 GB for 5.7 GB)"


def build_capacity(target: Target) -> float:
    """Bytes of one node: quantizing and engine building do not spread over several."""
    return float(target.memory - target.reserve)


def quantize_memory(recipe: Recipe) -> Figure | None:
    """Reckon the peak of the quantize step; None where the checkpoint comes quantized."""
    match recipe.quantization.method:
        case "none":
            return None
        case "onepass":
            return _one_pass(recipe)
        case "modelopt" | "trtllm":
            return _resident(recipe)


def compare_memory(recipe: Recipe) -> Figure | None:
    """Reckon the peak of comparing with the original; None where no text is held out.

    One layer of each model is there at a time: the original's as it is read and as it runs, the quantized one's as it
    is stored and as it is multiplied. What flows between layers is kept for both models; it goes to a file where there
    is no room for it.
    """
    held_out, known = recipe.checks.held_out, known_model(recipe)
    if held_out is None:
        return None
    if known is None:
        return Figure(ONEPASS_BYTES, "B", "assumed for one layer of each model at a time; large layers add", "assumed")
    layer = largest_layer(known.shape)
    flowing = 2 * 2 * known.shape.hidden_size * held_out.samples * held_out.sequence_length
    basis = (
        f"four layers of {gigabytes(layer)}, {gigabytes(flowing)} that flow between them through both models for"
        f" {held_out.samples} samples of {held_out.sequence_length} tokens, and 2 GiB assumed for the rest"
    )
    return Figure(ONEPASS_BYTES + 4 * layer + flowing, "B", basis)


def engine_memory(recipe: Recipe) -> Figure | None:
    """Reckon the peak of convert and build; None without an engine."""
    if recipe.backend != "tensorrt":
        return None
    weights = served_weights(recipe)
    return Figure(weights.value * BUILD_FACTOR, "B", BUILD_BASIS, "measured")


def calibrates(scheme: Scheme) -> bool:
    """Tell whether our own quantizer must run the model to make this."""
    return scheme.algorithm != "W4A16_NVFP4" or scheme.kv_scales


def one_pass_peak(shape: ModelShape, scheme: Scheme, calibration: Calibration) -> Figure:
    """Reckon the peak of our own quantizer.

    Weights alone are walked over in small pieces. Calibration runs the layers one after the other: one is read while
    the last one runs and the one before is written, and what flows from layer to layer is kept for all samples.
    """
    if not calibrates(scheme):
        return Figure(
            ONEPASS_BYTES,
            "B",
            "method onepass: assumed for one piece of a tensor at a time, whatever the model",
            "assumed",
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
    return Figure(
        whole, "B", "method modelopt: the whole model in BF16, exact bytes; activations are not counted", "exact"
    )


def _one_pass(recipe: Recipe) -> Figure:
    known = known_model(recipe)
    if known is None:
        basis = "method onepass: assumed for one piece of a tensor at a time; calibration adds a few layers"
        return Figure(ONEPASS_BYTES, "B", basis, "assumed")
    return one_pass_peak(known.shape, known.served, recipe.quantization.calibration)


def _resident(recipe: Recipe) -> Figure:
    """The calibrating tools hold the whole model, unless hf_ptq.py is told otherwise."""
    options = recipe.quantization.options
    if options.get("low_memory_mode"):
        packed = served_weights(recipe)
        return Figure(packed.value, "B", f"the whole model, packed as it loads: {packed.basis}", packed.kind)
    whole = source_weights(recipe)
    budget = _offload_budget(recipe)
    if budget is not None and budget < whole.value:
        return Figure(budget, "B", "max_gpu_memory_gb and max_cpu_memory_gb; the rest stays on disk")
    return Figure(whole.value, "B", f"the whole model at once: {whole.basis}", whole.kind)


def _offload_budget(recipe: Recipe) -> float | None:
    """Bytes that hf_ptq.py may hold when it offloads to a folder; on unified memory both budgets draw on one pool."""
    options = recipe.quantization.options
    if "offload_folder" not in options:
        return None
    parts = [options.get(name) for name in ("max_gpu_memory_gb", "max_cpu_memory_gb")]
    given = [float(part) * 1e9 for part in parts if isinstance(part, int | float)]
    return sum(given) if len(given) == len(parts) else None
