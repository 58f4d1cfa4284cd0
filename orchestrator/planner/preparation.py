"""Calculates the memory of the steps before serving: quantize, compare with the original, build a TensorRT engine."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import checkpoint_bytes, input_pairs, input_products, largest_layer
from orchestrator.planner.figures import Figure
from orchestrator.planner.known import Known
from orchestrator.planner.scheme import Scheme, scheme_of
from orchestrator.quantization.format_names import GPTQ, LOCAL_HESSIAN, MEASURED, QUANTIZED
from orchestrator.recipe.model import Calibration, Recipe
from orchestrator.units import in_bytes
from orchestrator.values import frozen

ONEPASS_BYTES = 2 * 2**30
"""Most memory that our own quantizer takes besides layers of the model."""
ENCODED = 4.5 / 16
"""Bytes of NVFP4 over those of BF16."""
ENGINE_WEIGHTS, ENGINE_PEAK = 5.7e9, 17.8e9
"""Bytes of the weights, and the peak memory of their conversion to a TensorRT engine, in the one published log."""
ENGINE_BASIS = (
    "one log of Llama 3.1 8B in NVFP4 on a Spark: 17.8 GB for 5.7 GB of weights; a range, because it does not tell"
    " whether all of that grows with the model or only two copies of the weights"
)


@frozen
class Preparation:
    """The steps that a served checkpoint needs first, with their peak memory."""

    quantizing: Figure | None = None
    """None if the weights are published in their format."""
    comparing: Figure | None = None
    """None if nothing is compared with the original."""
    builds_engine: bool = False


def preparation_of(recipe: Recipe, known: Known | None, source: Figure, weights: Figure) -> Preparation:
    """Return a recipe's steps before serving.

    Args:
        recipe: The recipe.
        known: Its model's sizes.
        source: The source weights.
        weights: The served weights.
    """
    return Preparation(
        _quantizing(recipe, known, source, weights), _comparing(recipe, known), recipe.backend == "tensorrt"
    )


def _quantizing(recipe: Recipe, known: Known | None, source: Figure, weights: Figure) -> Figure | None:
    match recipe.quantization.method:
        case "none":
            return None
        case "onepass":
            return _one_pass(recipe, known)
        case "modelopt" | "trtllm":
            return _resident(recipe, source, weights)


def _comparing(recipe: Recipe, known: Known | None) -> Figure | None:
    """Calculate the peak of comparing with the original; None without held-out text.

    One layer of each model is in memory at a time: the original's as it is read and as it runs, the quantized one's
    as it is stored and as it is multiplied. The hidden states of both models are kept. If they are too large for
    memory, they are kept in a file.
    """
    held_out = recipe.checks.held_out
    if held_out is None:
        return None
    if known is None:
        return Figure(ONEPASS_BYTES, "B", "assumed for one layer of each model at a time; large layers add", "assumed")
    layer = largest_layer(known.shape)
    flowing = 2 * 2 * known.shape.hidden_size * held_out.samples * held_out.sequence_length
    basis = (
        f"four layers of {in_bytes(layer)}, {in_bytes(flowing)} of hidden states of both models for"
        f" {held_out.samples} samples of {held_out.sequence_length} tokens, and 2 GiB assumed for the rest"
    )
    return Figure(ONEPASS_BYTES + 4 * layer + flowing, "B", basis)


def calibrates(scheme: Scheme, choices: Sequence[str] = ()) -> bool:
    """Tell whether our own quantizer must run the model for this format and `Quantization.choices`."""
    return any(one in MEASURED for one in choices) or scheme.algorithm != "W4A16_NVFP4" or scheme.kv_scales


def one_pass_peak(
    shape: ModelShape,
    scheme: Scheme,
    calibration: Calibration,
    choices: Sequence[str] = (),
) -> Figure:
    """Calculate the peak of our own quantizer.

    Without calibration, weights are read in small pieces. With calibration, the layers run one after the other: one is
    read while the last one runs and the one before is written. The hidden states of all samples are kept. GPTQ needs
    the products of every two inputs of a layer's modules as well, and the search `local_hessian` those within blocks.
    Inputs of quantized layers need the layer once more, as it is stored and as it is multiplied.
    """
    if not calibrates(scheme, choices):
        return Figure(
            ONEPASS_BYTES,
            "B",
            "method onepass: assumed for one piece of a tensor at a time, whatever the model",
            "assumed",
        )
    layer = largest_layer(shape)
    flowing = 2 * shape.hidden_size * calibration.samples * calibration.sequence_length
    basis = (
        f"method onepass: three layers of {in_bytes(layer)}, {in_bytes(flowing)} of hidden states for"
        f" {calibration.samples} samples of {calibration.sequence_length} tokens, and 2 GiB assumed for the rest"
    )
    products = input_products(shape) if GPTQ in choices else 0
    if products:
        basis += f"; rounding gptq: {in_bytes(products)} for the products of every two inputs of a layer's modules"
    elif LOCAL_HESSIAN in choices:
        products = input_pairs(shape)
        basis += f"; scale_search local_hessian: {in_bytes(products)} for the products of inputs within blocks of 16"
    quantized = (1 + ENCODED) * layer if QUANTIZED in choices else 0
    if quantized:
        basis += f"; layer_inputs quantized: {in_bytes(quantized)} for the quantized layer"
    return Figure(ONEPASS_BYTES + 3 * layer + flowing + products + quantized, "B", basis)


def resident_peak(shape: ModelShape) -> Figure:
    """Calculate the peak of a tool that calibrates the whole model at once."""
    whole = checkpoint_bytes(shape, scheme_of("bf16"))
    return Figure(
        whole, "B", "method modelopt: the whole model in BF16, exact bytes; activations are not counted", "exact"
    )


def _one_pass(recipe: Recipe, known: Known | None) -> Figure:
    if known is None:
        basis = "method onepass: assumed for one piece of a tensor at a time; calibration adds a few layers"
        return Figure(ONEPASS_BYTES, "B", basis, "assumed")
    quantization = recipe.quantization
    return one_pass_peak(known.shape, known.served, quantization.calibration, quantization.choices)


def _resident(recipe: Recipe, source: Figure, weights: Figure) -> Figure:
    """The calibrating tools hold the whole model, unless hf_ptq.py has other options."""
    options = recipe.quantization.options
    if options.get("low_memory_mode"):
        return Figure(weights.value, "B", f"the whole model, packed as it loads: {weights.basis}", weights.kind)
    budget = _offload_budget(recipe)
    if budget is not None and budget < source.value:
        return Figure(budget, "B", "max_gpu_memory_gb and max_cpu_memory_gb; the rest stays on disk")
    return Figure(source.value, "B", f"the whole model at once: {source.basis}", source.kind)


def _offload_budget(recipe: Recipe) -> float | None:
    """Bytes that hf_ptq.py may hold when it offloads to a folder. On unified memory both limits use the same memory."""
    options = recipe.quantization.options
    if "offload_folder" not in options:
        return None
    parts = [options.get(name) for name in ("max_gpu_memory_gb", "max_cpu_memory_gb")]
    given = [float(part) * 1e9 for part in parts if isinstance(part, int | float)]
    return sum(given) if len(given) == len(parts) else None
