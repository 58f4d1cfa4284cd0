"""Calculates the bytes of a recipe's weights: exactly for a known model, else parameters times bits of the format."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.models.shape import ModelShape
from orchestrator.planner.bytes import checkpoint_bytes, weights_read_per_step
from orchestrator.planner.figures import Figure, in_words
from orchestrator.planner.files import file_bytes
from orchestrator.planner.known import Find, Known, at_most, missing_sizes
from orchestrator.planner.scheme import Scheme, scheme_of
from orchestrator.recipe.model import Format, HubModel, Recipe
from orchestrator.values import frozen


@frozen
class BitsPerWeight:
    """Bits of a format for one weight, with its share of the block's scale."""

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

_MANY = 10_000
"""Number of tensors above which headers are not calculated: they are a thousandth of the bytes."""


def weight_bytes(parameters: float, weight_format: Format) -> Figure:
    """Calculate the bytes of a model's weights.

    Every parameter counts as quantized. Embeddings, output head, norms and routers usually stay in BF16, so a
    checkpoint is somewhat larger. How much depends on the model's shape, which is not known before the download.
    """
    bits = BITS[weight_format]
    basis = f"{in_words(parameters)} parameters at {bits.basis} each; embeddings and head count like the rest"
    return Figure(parameters * bits.value / 8, "B", basis)


def source_weights(recipe: Recipe, known: Known | None) -> Figure:
    """Return the bytes of the source weights: quantized already, or not yet."""
    if known is None:
        quantization = recipe.quantization
        return _calculated(recipe, quantization.format if quantization.method == "none" else "bf16")
    return _exact(known.shape, known.source)


def served_weights(recipe: Recipe, known: Known | None) -> Figure:
    """Return the bytes of the served checkpoint with scales; for our own quantizer also the headers."""
    if known is None:
        return _calculated(recipe, at_most(recipe))
    shape, budget, exact = known.shape, recipe.quantization.budget, _exact(known.shape, known.served)
    if budget is not None:
        basis = f"at most the bytes of {in_words(shape.parameters)} parameters in {known.served.name}; see the budget"
        return Figure(min(exact.value, budget.bytes or exact.value), "B", basis)
    if recipe.quantization.method == "onepass" and sum(tensor.count for tensor in shape.tensors) < _MANY:
        return Figure(file_bytes(shape, known.served), "B", f"{exact.basis}, headers included", "exact")
    return exact


def weights_in(recipe: Recipe, known: Known | None, weight_format: Format) -> Figure:
    """Return the bytes that the recipe's model would have in another format."""
    if known is None:
        return weight_bytes(recipe.model.parameters, weight_format)
    basis = f"exact bytes of {in_words(known.shape.parameters)} parameters"
    return Figure(checkpoint_bytes(known.shape, scheme_of(weight_format)), "B", basis, "exact")


def draft_weights(recipe: Recipe, find: Find) -> Figure | None:
    """Calculate the bytes of the draft model, if there is one.

    A draft's format is not part of a recipe: it counts as BF16 unless its name says otherwise.
    """
    speculative = recipe.serve.speculative
    if speculative is None or speculative.type == "mtp":
        return None
    name = _format_in_name(speculative.draft)
    known = find(speculative.draft)
    if known is None:
        return weight_bytes(speculative.draft.parameters, name)
    return _exact(known.shape, known.stored or scheme_of(name), name)


def weights_per_token(recipe: Recipe, known: Known | None) -> Figure:
    """Return the bytes of weights that one token of one request reads."""
    if known is None:
        active = recipe.model.active_parameters or recipe.model.parameters
        return weight_bytes(active, at_most(recipe))
    parameters = known.shape.active_parameters
    basis = f"exact bytes of {in_words(parameters)} parameters in {known.served.name}: no embedding"
    return Figure(weights_read_per_step(known.shape, known.served), "B", basis, "exact")


def _exact(shape: ModelShape, scheme: Scheme, name: str | None = None) -> Figure:
    what = "exact bytes" if shape.exact else "upper limit"
    by = ", by the headers of its files" if scheme.as_stored else ""
    basis = f"{what} of {in_words(shape.parameters)} parameters in {name or scheme.name}{by}"
    return Figure(checkpoint_bytes(shape, scheme), "B", basis, "exact" if shape.exact else "formula")


def _calculated(recipe: Recipe, weight_format: Format) -> Figure:
    figure = weight_bytes(recipe.model.parameters, weight_format)
    return Figure(figure.value, figure.unit, f"{figure.basis}: {missing_sizes(recipe)}")


def _format_in_name(model: HubModel) -> Format:
    name = model.repo.upper()
    if name.endswith(("-NVFP4", "-FP4")):
        return "nvfp4"
    return "fp8" if name.endswith("-FP8") else "bf16"
