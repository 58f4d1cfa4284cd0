"""Refuses to quantize a model that is published quantized, before it is downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.catalog.models import find_model, known_repos
from orchestrator.errors import Refusal
from orchestrator.planner.rule_input import RuleInput
from orchestrator.planner.scheme import Scheme, scheme_of
from orchestrator.recipe.model import GeneratedModel, HubModel

_GPT_OSS = "GptOssForCausalLM"
_UNQUANTIZED = scheme_of("bf16").algorithm
_MARK = re.compile(
    r"[-_.](nvfp4|mxfp4|fp4|fp8|awq|gptq|w4a16|w4a8|w8a8|w8a16|(int)?[48]-?bits?|int[48]|bnb|exl[23]|hqq|aqlm|autoround)"
    r"(?=[-_.]|$)",
    re.IGNORECASE,
)
"""Words in the names of quantized checkpoints."""


def starts_from_unquantized(given: RuleInput) -> Iterator[Refusal]:
    """Quantizing starts from a model that is not quantized yet."""
    if given.quantization.method == "none" or given.recipe.model.architecture == _GPT_OSS:
        return  # gpt-oss has a rule of its own
    found = _quantized(given)
    if found is None:
        return
    message = f"{found}; method {given.quantization.method} would quantize it again"
    ways = f"use {_unquantized(given)}, or method none to serve it as it is"
    yield Refusal("REQUANTIZE", message, f"{ways}, or method onepass, which decodes it" if _has_blocks(given) else ways)


def _quantized(given: RuleInput) -> str | None:
    """Say that the model is quantized, and how this is known; None if nothing says so."""
    model = given.recipe.model
    if isinstance(model, GeneratedModel):
        return None
    name = model.repo if isinstance(model, HubModel) else model.path
    sizes = given.find(model)
    if sizes is not None and sizes.stored is not None:
        if sizes.stored.algorithm == _UNQUANTIZED or (_has_blocks(given) and given.quantization.method == "onepass"):
            return None
        return f"{name} is quantized: {sizes.stored.algorithm}, as {sizes.basis} says"
    if not isinstance(model, HubModel):
        return None  # a folder may have any name
    entry = find_model(name)
    if entry is not None:
        return f"{name} is quantized: {entry.format}, as the catalogue says" if entry.format else None
    mark = None if "unquantized" in name.lower() else _MARK.search(name)
    return f"{name} is quantized: its name has {mark[1]}" if mark else None


def _has_blocks(given: RuleInput) -> bool:
    """Tell whether the model is published in a form that method onepass decodes."""
    known = given.model.known
    return known is not None and is_decoded(known.source)


def is_decoded(scheme: Scheme) -> bool:
    """Tell whether method onepass decodes a published checkpoint as it reads it: FP8 with block scales alone."""
    blocks = scheme_of("fp8_block_scale")
    return (scheme.algorithm, scheme.native) == (blocks.algorithm, blocks.native)


def _unquantized(given: RuleInput) -> str:
    """Name the repository that the quantized model was made from."""
    repo: str = getattr(given.recipe.model, "repo", "")
    name = repo.partition("/")[2].lower()
    own = find_model(repo)
    for other in sorted(known_repos(), key=len, reverse=True):
        entry = find_model(other)
        if entry is None or entry.quantization is not None or entry.format is not None:
            continue
        stem = other.partition("/")[2].lower().removesuffix("-bf16")
        if name.startswith(stem) and (own is None or own.config == entry.config):
            return f"the unquantized {other}"
    return "the repository of the unquantized (BF16) model"
