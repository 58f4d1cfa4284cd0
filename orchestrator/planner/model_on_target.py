"""Describes a recipe's model on its target. It is found once per plan, and handed down to rules, figures and pages."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.catalog.target import Target
from orchestrator.planner.figures import Figure
from orchestrator.planner.known import Find, Known, in_catalogue, known_model
from orchestrator.planner.preparation import Preparation, preparation_of
from orchestrator.planner.queueing import at_rate
from orchestrator.planner.serving import RUNTIME, Serving, gpus_of
from orchestrator.planner.weights import draft_weights, served_weights, source_weights
from orchestrator.recipe.model import Recipe, Workload
from orchestrator.units import in_bytes
from orchestrator.values import frozen


@frozen
class ModelOnTarget:
    """A recipe's model with its machine."""

    recipe: Recipe
    target: Target
    known: Known | None
    """Its exact sizes; None if only the number of parameters is known."""
    source: Figure
    """Bytes of the source weights: to download, or to read if the model is local."""
    weights: Figure
    """Bytes of the served weights."""
    draft: Figure | None
    """Bytes of the draft model; None without one."""
    preparation: Preparation
    """The steps before serving."""
    runtime: str
    """The runtime that serves, in the planner's constants."""
    serving: Serving | None
    """One user of the workload; None if the sizes are not known. The target may lack the GPUs for it."""

    @property
    def serving_memory(self) -> Figure:
        """The least memory of serving, over all nodes: weights, a draft's weights and one request."""
        parts = [f"weights: {self.weights.basis}"]
        total = self.weights.value
        if self.draft is not None:
            parts.append(f"draft: {self.draft.basis}")
            total += self.draft.value
        if self.serving is not None:
            extra = (self.serving.cache + self.serving.workspace) * self.serving.gpu_count
            total += extra
            request = f"1 request of {self.serving.context:,} tokens"
            parts.append(f"{in_bytes(extra)} for activations and {request}, by formula")
        return Figure(total, "B", "; ".join(parts))

    @property
    def asked(self) -> Serving | None:
        """All users of the workload; None if the sizes are not known, or if no server runs there."""
        if self.serving is None or not self.has_server:
            return None
        workload = self.recipe.serve.workload or Workload()
        if workload.rate is not None:
            return at_rate(self.serving, workload.rate, self.recipe.serve.max_batch_size)
        return replace(self.serving, batch=workload.concurrency or 1)

    @property
    def available_memory(self) -> float:
        """Bytes of the GPUs that serve, over all nodes, for weights, caches and activations."""
        gpu, usable = self.target.gpu, float(self.target.usable_memory)
        return usable * self.gpus / gpus_of(self.target) if gpu and gpu.count else usable

    @property
    def gpus(self) -> int:
        """GPUs that serve: those that the recipe names, as far as the target has them."""
        return min(self.recipe.serve.tensor_parallel_size, gpus_of(self.target))

    @property
    def has_server(self) -> bool:
        """Whether the target has the GPUs that the recipe names."""
        return self.target.gpu is not None and self.recipe.serve.tensor_parallel_size <= gpus_of(self.target)


def model_on_target(recipe: Recipe, target: Target, find: Find = in_catalogue, runtime: str = RUNTIME) -> ModelOnTarget:
    """Find a recipe's model, and calculate what it takes on a machine.

    Args:
        recipe: The recipe.
        target: The machine.
        find: Looks up the sizes of the model and of a draft.
        runtime: The name of the runtime that serves, in the planner's constants.
    """
    known, draft = known_model(recipe, find), draft_weights(recipe, find)
    source, weights = source_weights(recipe, known), served_weights(recipe, known)
    return ModelOnTarget(
        recipe=recipe,
        target=target,
        known=known,
        source=source,
        weights=weights,
        draft=draft,
        preparation=preparation_of(recipe, known, source, weights),
        runtime=runtime,
        serving=_serving(recipe, known, target, draft, runtime) if known else None,
    )


def context_limit(recipe: Recipe, known: Known) -> int:
    """Return the tokens that the recipe, else the model, allows a request."""
    return recipe.serve.max_seq_len or known.shape.max_position


def _serving(recipe: Recipe, known: Known, target: Target, draft: Figure | None, runtime: str) -> Serving:
    limit = context_limit(recipe, known)
    workload = (recipe.serve.workload or Workload()).within(limit)
    return Serving(
        shape=known.shape,
        scheme=known.served,
        kv_dtype=known.kv_dtype,
        target=target,
        target_name=recipe.target,
        runtime=runtime,
        context=workload.context,
        output_tokens=workload.output_tokens,
        gpus=min(recipe.serve.tensor_parallel_size, gpus_of(target)),
        tokens_per_step=recipe.serve.max_num_tokens,
        cache_share=recipe.serve.kv_cache.free_gpu_memory_fraction,
        draft_bytes=draft.value if draft else 0.0,
    )
