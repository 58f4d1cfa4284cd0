"""Declares the comparison of the quantized model with its original on held-out text, if the recipe names one."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Argument, Inside
from orchestrator.recipe.model import Recipe
from orchestrator.steps.calibration import RANDOM, TEXT
from orchestrator.steps.shape import CHECKPOINT, HELD_OUT, MODEL, OUT, Shape, walk_options, walk_step
from orchestrator.steps.step import Input, Output, Step

RESULT = "evaluation.json"


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the comparison. Its limits belong to the checks, so another limit needs no new comparison."""
    held_out = recipe.checks.held_out
    if held_out is None:
        return None
    shape = Shape(recipe, catalog)
    options: dict[str, Argument] = {
        "checkpoint": Inside(CHECKPOINT),
        "reference": Inside(MODEL),
        "output": OUT,
        **walk_options(held_out),
    }
    resources = recipe.quantization.resources
    if resources.device != "auto":
        options["device"] = resources.device
    inputs = [Input(shape.checkpoint_step, CHECKPOINT), Input(shape.model_step, MODEL)]
    if held_out.dataset != RANDOM:
        options["text"] = Inside(HELD_OUT, TEXT)
        inputs.append(Input("held-out", HELD_OUT))
    return walk_step(shape, "evaluate", options, inputs, (Output(RESULT, "json"),))
