"""Declares the build of the TensorRT engine, on the GPU that serves it, because TensorRT engines are not portable."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import OUTPUT, Inside
from orchestrator.recipe.model import OptionValue, Recipe
from orchestrator.steps.options import OptionTable
from orchestrator.steps.shape import OUT, TRTLLM_CHECKPOINT, Shape
from orchestrator.steps.step import Input, Output, Step


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the build of a TensorRT engine."""
    shape = Shape(recipe, catalog)
    if not (recipe.backend == "tensorrt" and shape.has("trtllm-build")):
        return None
    table = OptionTable(
        f"{recipe.name}: engine.build", recipe.engine.build, catalog.options(shape.image, "trtllm-build")
    )
    own = {
        "checkpoint_dir": Inside(TRTLLM_CHECKPOINT),
        "output_dir": OUT,
        "output_timing_cache": Inside(OUTPUT, "model.cache"),  # its default is in the working directory
    }
    return Step(
        name="engine",
        argv=(*shape.command("trtllm-build"), *table.merged(own, _limits(recipe))),
        outputs=(Output("config.json", "json"), Output("rank*.engine", "engine")),
        image=recipe.image,
        inputs=(Input(shape.trtllm_checkpoint_step, TRTLLM_CHECKPOINT),),
        gpus=shape.gpus,
        identity=shape.host,
    )


def _limits(recipe: Recipe) -> dict[str, OptionValue]:
    """The build has the server's limits. trtllm-build's defaults take memory for 2048 requests at once."""
    serve = recipe.serve
    limits: dict[str, OptionValue] = {"max_batch_size": serve.max_batch_size, "max_num_tokens": serve.max_num_tokens}
    return limits if serve.max_seq_len is None else limits | {"max_seq_len": serve.max_seq_len}
