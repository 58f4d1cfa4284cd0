"""Declares the build of a TensorRT engine with TensorRT Edge-LLM, from the checkpoint as it is."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Argument, Inside
from orchestrator.recipe.model import Recipe
from orchestrator.serving import edge_llm
from orchestrator.steps.options import OptionTable
from orchestrator.steps.shape import CHECKPOINT, OUT, Shape, payload
from orchestrator.steps.step import Input, Output, Step

CACHE_ENTRY = "cache_entry.json"
"""The file that names the engine's place in the server's cache."""


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the build. The step's key has the versions of TensorRT and CUDA, and the GPU."""
    shape = Shape(recipe, catalog)
    if not (recipe.backend == "tensorrt" and shape.has("tensorrt-edgellm-build")):
        return None
    known = catalog.options(shape.image, "tensorrt-edgellm-build")
    table = OptionTable(f"{recipe.name}: engine.build", recipe.engine.build, known)
    sizes = {name: str(size) for name, size in edge_llm.sizes(recipe).items()}
    own: dict[str, Argument] = {"model-dir": Inside(CHECKPOINT), "engine-dir": OUT, **sizes}
    builder = (*shape.command("tensorrt-edgellm-build"), *table.merged(own))
    return Step(
        name="engine",
        argv=payload("edge_engine", {"checkpoint": Inside(CHECKPOINT), "output": OUT}, "--", *builder),
        outputs=(Output("config.json", "json"), Output("llm.engine", "engine"), Output(CACHE_ENTRY, "json")),
        image=recipe.image,
        inputs=(Input(shape.checkpoint_step, CHECKPOINT),),
        needs_code=True,
        gpus=shape.gpus,
        identity=shape.host,
    )
