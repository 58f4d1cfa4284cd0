"""Turns a recipe into a question to the planner: the model, the machine and the requests."""

from __future__ import annotations

from orchestrator.catalog.target import Target
from orchestrator.planner.known import Known
from orchestrator.planner.making import compare_memory, quantize_memory
from orchestrator.planner.question import Question
from orchestrator.planner.serving import gpus_of
from orchestrator.planner.weights import draft_bytes
from orchestrator.recipe.model import Benchmark, Recipe

ENGINE = "trtllm"
"""The runtime of every recipe."""
_TYPICAL_CONTEXT = 4096


def question_of(
    recipe: Recipe, known: Known, target: Target, *, batch: int = 1, context: int | None = None
) -> Question:
    """Make the question for a recipe's server.

    Args:
        recipe: The recipe.
        known: Its model's sizes.
        target: Its machine.
        batch: Concurrent requests.
        context: Tokens of each; None: the usual context.
    """
    draft = draft_bytes(recipe)
    return Question(
        shape=known.shape,
        scheme=known.served,
        kv_dtype=known.kv_dtype,
        target=target,
        target_name=recipe.target,
        engine=ENGINE,
        batch=batch,
        context=context or usual_context(recipe, known),
        gpus=min(recipe.serve.tensor_parallel_size, gpus_of(target)),
        quantizing=quantize_memory(recipe),
        comparing=compare_memory(recipe),
        builds_engine=recipe.backend == "tensorrt",
        tokens_per_step=recipe.serve.max_num_tokens,
        cache_share=recipe.serve.kv_cache.free_gpu_memory_fraction,
        draft_bytes=draft.value if draft else 0.0,
    )


def usual_context(recipe: Recipe, known: Known) -> int:
    """Return the usual context, as far as the model and the server allow it."""
    return min(_TYPICAL_CONTEXT, longest_allowed(recipe, known))


def longest_allowed(recipe: Recipe, known: Known) -> int:
    """Return the tokens that the recipe, else the model, allows a request."""
    return recipe.serve.max_seq_len or known.shape.max_position


def benchmark_context(recipe: Recipe) -> int:
    """Return the mean tokens of a request of the recipe's benchmark while it is answered."""
    lengths = recipe.benchmark or Benchmark()
    return lengths.input_tokens + lengths.output_tokens // 2
