"""Bytes of weights, from the number of parameters and the bits that a format spends on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.catalog.target import Target
from orchestrator.planner.figures import Figure
from orchestrator.recipe.model import Format, HubModel, Recipe


@dataclass(frozen=True)
class BitsPerWeight:
    """What a format spends on one weight, its share of the block's scale included."""

    value: float
    basis: str


BITS: Mapping[Format, BitsPerWeight] = MappingProxyType(
    {
        "bf16": BitsPerWeight(16, "16 bits"),
        "fp8": BitsPerWeight(8, "8 bits"),
        "nvfp4": BitsPerWeight(4.5, "4 bits and an 8-bit scale for 16 weights"),
        "w4a16_nvfp4": BitsPerWeight(4.5, "4 bits and an 8-bit scale for 16 weights"),
        "mxfp4": BitsPerWeight(4.25, "4 bits and an 8-bit scale for 32 weights"),
        "int4_awq": BitsPerWeight(4.125, "4 bits and a 16-bit scale for 128 weights"),
    }
)


def weight_bytes(parameters: float, weight_format: Format) -> Figure:
    """Reckon the bytes of a model's weights.

    Every parameter counts as quantized. Embeddings, output head, norms and routers stay in BF16 as a rule, so a
    checkpoint is somewhat larger; how much depends on the model's shape, which is not known before the download.
    """
    bits = BITS[weight_format]
    basis = f"{parameters / 1e9:.4g} billion parameters at {bits.basis} each; embeddings and head not counted apart"
    return Figure(parameters * bits.value / 8, "B", basis)


def draft_bytes(recipe: Recipe) -> Figure | None:
    """Reckon the bytes of the model that proposes tokens; None without one.

    A draft's format is not part of a recipe: it counts as BF16 unless its name says otherwise.
    """
    speculative = recipe.serve.speculative
    if speculative is None or speculative.type == "mtp":
        return None
    return weight_bytes(speculative.draft.parameters, _format_in_name(speculative.draft))


def decode_ceiling(recipe: Recipe, target: Target) -> Figure | None:
    """Bound the tokens per second of a single stream: each token reads every active weight once.

    KV cache, activations and launch gaps take further time, so no run reaches it; speculative decoding can pass it.
    None on a machine without a GPU.
    """
    if target.gpu is None:
        return None
    active = recipe.model.active_parameters or recipe.model.parameters
    read = weight_bytes(active, recipe.quantization.format)
    bandwidth = target.gpu.memory_bandwidth * recipe.serve.tensor_parallel_size
    basis = f"{bandwidth / 1e9:.4g} GB/s over {read} of weights read per token ({read.basis}); nothing else counted"
    return Figure(bandwidth / read.value, "tok/s", basis)


def _format_in_name(model: HubModel) -> Format:
    name = model.repo.upper()
    if name.endswith(("-NVFP4", "-FP4")):
        return "nvfp4"
    return "fp8" if name.endswith("-FP8") else "bf16"
