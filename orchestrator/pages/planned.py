"""What a plan's page says, taken from a recipe and what the planner reckoned for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from orchestrator.catalog.target import Target
from orchestrator.errors import Refusal
from orchestrator.pages.comparison import Comparison, Subject, Terms, compare
from orchestrator.pages.page import CACHE, DRAFT, TOOL, TRANSIENT, WEIGHTS, WORKSPACE, Notice, Phase, PlanFacts
from orchestrator.planner.estimate import Estimate
from orchestrator.planner.figures import Figure
from orchestrator.planner.known import Known, known_model
from orchestrator.planner.memory import serving_of
from orchestrator.planner.serving import gpus_of, room_per_gpu
from orchestrator.recipe.model import Recipe

_TYPICAL_TEXT = 4096


def plan_facts(
    recipe: Recipe,
    target: Target,
    estimate: Estimate,
    refusals: Sequence[Refusal],
    warnings: Sequence[Refusal],
) -> PlanFacts:
    """Gather what the page of a plan says."""
    return PlanFacts(
        name=recipe.name,
        description=recipe.description,
        target=recipe.target,
        verdict="Cannot work" if refusals else "Can work, with warnings" if warnings else "Can work",
        works=not refusals,
        notices=tuple(Notice(one.code, one.message, one.hint) for one in (*refusals, *warnings)),
        figures=tuple(_figures(estimate)),
        phases=tuple(_phases(recipe, target, estimate)),
        room=room_per_gpu(target),
        gpus=gpus_of(target),
        format=recipe.quantization.format,
    )


def comparison_for(recipe: Recipe, target: Target) -> Comparison | None:
    """Put a recipe's format beside the others, as its server would run them; None where its sizes are not known."""
    known = known_model(recipe)
    if known is None:
        return None
    subject = Subject(recipe.name, known.shape, known.basis, {recipe.quantization.format: known.served})
    context = min(_TYPICAL_TEXT, recipe.serve.max_seq_len or _TYPICAL_TEXT, known.shape.max_position)
    gpus = min(recipe.serve.tensor_parallel_size, gpus_of(target))
    return compare(subject, Terms(target, recipe.target, "trtllm", 1, context, known.kv_dtype, gpus))


def _figures(estimate: Estimate) -> Iterator[tuple[str, str, str]]:
    for field in fields(estimate):
        figure = getattr(estimate, field.name)
        if isinstance(figure, Figure):
            yield field.name.replace("_", " "), str(figure), figure.basis


def _phases(recipe: Recipe, target: Target, estimate: Estimate) -> Iterator[Phase]:
    if estimate.quantize_memory:
        yield Phase("quantize", {TOOL: estimate.quantize_memory.value}, estimate.quantize_memory.basis)
    if estimate.engine_memory:
        yield Phase("build engine", {TOOL: estimate.engine_memory.value}, estimate.engine_memory.basis)
    known = known_model(recipe)
    if target.gpu is None:
        return
    if known is None:
        yield Phase("serve", {WEIGHTS: estimate.serve_memory.value}, f"at least: {estimate.serve_memory.basis}")
        return
    yield from _serving(recipe, target, known)


def _serving(recipe: Recipe, target: Target, known: Known) -> Iterator[Phase]:
    serving = serving_of(recipe, known, batch=recipe.serve.max_batch_size, context=1)
    draft = serving.draft / serving.gpus
    weights = {WEIGHTS: serving.weights - draft} | ({DRAFT: draft} if draft else {})
    transient = serving.load_peak(target) - serving.weights
    yield Phase(
        "load",
        weights | ({TRANSIENT: transient} if transient else {}),
        "weights, and one file of them in the page cache besides" if transient else "weights",
    )
    share = recipe.serve.kv_cache.free_gpu_memory_fraction
    cache = share * max(room_per_gpu(target) - serving.weights - serving.workspace, 0.0)
    yield Phase(
        "serve",
        weights | {WORKSPACE: serving.workspace, CACHE: cache},
        f"weights; activations by formula for steps of {serving.tokens_per_step} tokens; the KV cache takes"
        f" {share:.0%} of what they leave (serve.kv_cache.free_gpu_memory_fraction)",
    )
