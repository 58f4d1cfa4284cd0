"""Declares the conversion of the checkpoint to TensorRT-LLM's layout, which trtllm-build reads."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Inside
from orchestrator.recipe.model import Recipe
from orchestrator.steps.options import OptionTable
from orchestrator.steps.shape import CHECKPOINT, OFFLINE, OUT, TRTLLM_CHECKPOINT_FILES, Shape
from orchestrator.steps.step import Input, Step


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the conversion. quantize.py writes the layout already."""
    shape = Shape(recipe, catalog)
    needed = recipe.backend == "tensorrt" and recipe.quantization.method != "trtllm"
    if not (needed and shape.has("convert_checkpoint.py")):
        return None
    known = catalog.options(shape.image, "convert_checkpoint.py")
    table = OptionTable(f"{recipe.name}: engine.convert", recipe.engine.convert, known)
    options = table.merged(
        {"model_dir": Inside(CHECKPOINT), "output_dir": OUT}, {"tp_size": recipe.serve.tensor_parallel_size}
    )
    return Step(
        name="convert",
        argv=(*shape.command("convert_checkpoint.py"), *options),
        outputs=TRTLLM_CHECKPOINT_FILES,
        image=recipe.image,
        inputs=(Input(shape.checkpoint_step, CHECKPOINT),),
        environment=OFFLINE,
        gpus=shape.gpus,  # it computes on the processor, but its libraries do not load without the driver
        identity=shape.host,
    )
