"""Declares a small model that is generated from a seed."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Argument
from orchestrator.recipe.model import GeneratedModel, Recipe
from orchestrator.steps.shape import HF_CHECKPOINT, OUT, payload
from orchestrator.steps.step import Step

_SHARDS = 2
"""More than one, so that readers of the model need the index."""


def build(recipe: Recipe, _catalog: Catalog) -> Step | None:
    """Declare the generation of a model."""
    if not isinstance(recipe.model, GeneratedModel):
        return None
    shape = recipe.model.generate
    options: dict[str, Argument] = {
        "output": OUT,
        "seed": str(shape.seed),
        "architecture": shape.architecture,
        "hidden-size": str(shape.hidden_size),
        "intermediate-size": str(shape.intermediate_size),
        "layers": str(shape.num_hidden_layers),
        "heads": str(shape.num_attention_heads),
        "kv-heads": str(shape.num_key_value_heads),
        "vocab-size": str(shape.vocab_size),
        "max-position-embeddings": str(shape.max_position_embeddings),
        "shards": str(_SHARDS),
    }
    return Step(
        name="generate",
        argv=payload("generate", options),
        outputs=HF_CHECKPOINT,
        needs_code=True,
        portable=True,
    )
