"""Finds a recipe's exact model sizes: in what a caller read of its files, else in the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from orchestrator.catalog.models import find_model
from orchestrator.models import ModelShape, shape_of
from orchestrator.planner.scheme import KvDtype, Scheme, scheme_of, scheme_of_quant_config
from orchestrator.recipe.model import Format, GeneratedModel, GenerateOptions, HubModel, LocalModel, Recipe
from orchestrator.values import frozen


@frozen
class Sizes:
    """The sizes of one model."""

    shape: ModelShape
    stored: Scheme | None
    """How its files store it; None: not known, so a recipe decides."""
    basis: str
    """The source of both."""


Find = Callable[[HubModel | LocalModel], Sizes | None]
"""Looks up the sizes of a model; None if only the number of parameters is known."""


def in_catalogue(model: HubModel | LocalModel) -> Sizes | None:
    """Look up a model in the catalogue."""
    return known_repo(model.repo) if isinstance(model, HubModel) else None


@frozen
class Known:
    """A model with known tensors, and the format of its source and served weights."""

    shape: ModelShape
    source: Scheme
    """The downloaded or generated checkpoint."""
    served: Scheme
    kv_dtype: KvDtype
    """The cache's format when it serves."""
    basis: str
    """The source of the sizes."""


def known_model(recipe: Recipe, find: Find = in_catalogue) -> Known | None:
    """Look up a recipe's model; None if only the number of parameters is known."""
    model = recipe.model
    if isinstance(model, GeneratedModel):
        found: Sizes | None = Sizes(_generated(model.generate), None, "the recipe")
    else:
        found = find(model)
    if found is None:
        return None
    shape, basis = found.shape, found.basis
    source = _source(recipe, found.stored)
    served = source if recipe.quantization.method == "none" else made(recipe)
    asked = recipe.serve.kv_cache.dtype
    return Known(shape, source, served, served.kv_cache if asked == "auto" else asked, basis)


def missing_sizes(recipe: Recipe) -> str:
    """Return why a recipe's model has no exact sizes."""
    model = recipe.model
    if not isinstance(model, HubModel):
        return "its folder has no config.json of a language model yet"
    return (
        f"the sizes of {model.repo} are not in the catalogue; `orchestrator plan` reads them where it reaches the Hub"
    )


def _source(recipe: Recipe, stored: Scheme | None) -> Scheme:
    if stored is not None:
        return stored
    if recipe.quantization.method != "none":
        return scheme_of("bf16")
    if has_block_scales(recipe):
        return scheme_of("fp8_block_scale")
    return made(recipe)


def at_most(recipe: Recipe) -> Format:
    """Return the format of a recipe's weights; for several formats, the smallest single one that is not smaller.

    `auto` measures its choice while it quantizes. A plan counts the most that the budget allows.
    """
    budget = recipe.quantization.budget
    if budget is None:
        return recipe.quantization.format
    bits = budget.bits_per_weight or (budget.bytes or 0) * 8 / recipe.model.parameters
    return "fp8" if bits <= 8 else "bf16"  # noqa: PLR2004 - bits of FP8


def made(recipe: Recipe) -> Scheme:
    """Return the scheme that a recipe's quantizer writes."""
    quantization = recipe.quantization
    cache_format = quantization.kv_cache
    return scheme_of(
        at_most(recipe),
        kv_cache="bf16" if cache_format == "none" else cache_format,
        kv_scales=cache_format != "none",
        exclude=quantization.exclude,
    )


def has_block_scales(recipe: Recipe) -> bool:
    """Tell whether FP8 weights have one scale per 128 by 128 block instead of one per tensor.

    This is the case in the FP8 checkpoints that Qwen and DeepSeek publish.
    """
    if (recipe.quantization.format, recipe.quantization.method) != ("fp8", "none"):
        return False
    repo: str = getattr(recipe.model, "repo", "")
    return (repo.startswith("Qwen/") and repo.endswith("-FP8")) or repo.startswith("deepseek-ai/")


@cache  # many recipes share a model
def known_repo(repo: str) -> Sizes | None:
    """Look up a repository in the catalogue."""
    entry = find_model(repo)
    if entry is None:
        return None
    declared = _declared(entry.quantization) if entry.quantization else None
    return Sizes(shape_of(entry.config, f"catalogue: {repo}"), declared, entry.source)


def _declared(quantization: Mapping[str, object]) -> Scheme:
    wrapped = quantization if "quant_method" in quantization else {"quantization": quantization}
    return scheme_of_quant_config(wrapped, "the checkpoint's own list of what is quantized")


@cache
def _generated(options: GenerateOptions) -> ModelShape:
    sizes = options.model_dump(exclude={"seed", "architecture"})
    return shape_of({**sizes, "architectures": [options.architecture], "tie_word_embeddings": False}, "the recipe")
