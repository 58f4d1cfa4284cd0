"""Calculates the memory of serving, how much the target has for it, and which requests fit."""

from __future__ import annotations

from orchestrator.catalog.target import Target
from orchestrator.planner.asking import longest_allowed, question_of, usual_context
from orchestrator.planner.figures import Figure
from orchestrator.planner.known import known_model
from orchestrator.planner.serving import max_batch, max_context
from orchestrator.planner.weights import draft_bytes, served_weights
from orchestrator.recipe.model import Recipe


def serve_capacity(recipe: Recipe, target: Target) -> float:
    """Bytes on the serving GPUs for weights, caches and activations, over all nodes."""
    if target.gpu is None or not target.gpu.count:
        return float(target.usable_memory)
    gpus = target.gpu.count * target.nodes
    return target.usable_memory * min(recipe.serve.tensor_parallel_size, gpus) / gpus


def serve_memory(recipe: Recipe, target: Target) -> Figure:
    """Calculate the least memory of serving, over all nodes: weights, a draft's weights and one request."""
    weights = served_weights(recipe)
    draft = draft_bytes(recipe)
    parts = [f"weights: {weights.basis}"]
    total = weights.value
    if draft is not None:
        parts.append(f"draft: {draft.basis}")
        total += draft.value
    known = known_model(recipe)
    if known is not None:
        serving = question_of(recipe, known, target).serving
        extra = (serving.cache + serving.workspace) * serving.gpus
        total += extra
        parts.append(f"{extra / 1e9:.1f} GB for activations and 1 request of {serving.context:,} tokens, by formula")
    return Figure(total, "B", "; ".join(parts))


def longest_text(recipe: Recipe, target: Target) -> Figure | None:
    """Calculate the longest context of one request; None if sizes are not known, or nothing can serve it."""
    known = known_model(recipe)
    if known is None or target.gpu is None:
        return None
    question = question_of(recipe, known, target)
    limit = longest_allowed(recipe, known)
    value = min(max_context(question.serving, question.cache_room), limit)
    own = "your max_seq_len" if recipe.serve.max_seq_len else "the model's own limit"
    reason = own if value == limit else "what memory allows"
    return Figure(value, "tokens", reason, conditions="prompt and answer of 1 request")


def most_texts(recipe: Recipe, target: Target) -> Figure | None:
    """Calculate how many requests of the usual context fit; None if sizes are not known, or nothing can serve it."""
    known = known_model(recipe)
    if known is None or target.gpu is None:
        return None
    question = question_of(recipe, known, target)
    found = max_batch(question.serving, question.cache_room)
    limit = recipe.serve.max_batch_size
    reason = f"your max_batch_size; memory allows {found:,}" if found >= limit else "what memory allows"
    conditions = f"of {usual_context(recipe, known):,} tokens"
    return Figure(min(found, limit), "requests", reason, conditions=conditions)
