"""Declares the comparison of ways to quantize a model, which `orchestrator quality` or `checks.compare` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.catalog.load import Catalog
from orchestrator.errors import RecipeInvalidError
from orchestrator.executors.job import Argument, Inside
from orchestrator.quantization.candidates import Candidate, compared
from orchestrator.quantization.format_names import SMOOTHED_FORMATS
from orchestrator.recipe.model import Recipe
from orchestrator.steps.calibration import RANDOM, TEXT, needs_text, runs_the_model
from orchestrator.steps.shape import CALIBRATION, HELD_OUT, MODEL, OUT, Shape, walk_options, walk_step
from orchestrator.steps.step import Input, Output, Step

STEP = "candidates"
RESULT = "candidates.json"


def build_check(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the comparison of the recipe's own way with others.

    Raises:
        RecipeInvalidError: The recipe has no other way, or none at all.
    """
    candidates = compared(recipe)
    if not candidates:
        return None
    quantization, names = recipe.quantization, ", ".join(recipe.checks.compare)
    hint = "leave checks.compare out"
    if quantization.method != "onepass" or quantization.format not in SMOOTHED_FORMATS:
        message = f"{recipe.name}: checks.compare {names}: ways to encode {' and '.join(SMOOTHED_FORMATS)} of method"
        message += f" onepass; the recipe has {quantization.format} of method {quantization.method}"
        raise RecipeInvalidError(message, hint=hint)
    if len(candidates) == 1:
        message = f"{recipe.name}: checks.compare: {names} is what the recipe itself does"
        raise RecipeInvalidError(message, hint=f"{hint}, or choose another scale_search")
    return build(recipe, catalog, candidates)


def build(recipe: Recipe, catalog: Catalog, candidates: Sequence[Candidate]) -> Step:
    """Declare the comparison.

    Args:
        recipe: The recipe, with the values of the most demanding candidate.
        catalog: Images and targets.
        candidates: What is compared.

    Raises:
        RecipeInvalidError: There is no held-out text.
    """
    shape, quantization, held_out = Shape(recipe, catalog), recipe.quantization, recipe.checks.held_out
    if held_out is None:
        message = f"{recipe.name}: checks.held_out is missing: there is no text to compare on"
        raise RecipeInvalidError(message, hint="name one, for this run: --set 'checks.held_out={dataset: wikitext}'")
    if quantization.layer_inputs != "original":
        message = f"{recipe.name}: quantization.layer_inputs {quantization.layer_inputs}: ways are compared on one"
        message += " calibration, and there each of them has inputs of its own"
        raise RecipeInvalidError(message, hint="compare with --set quantization.layer_inputs=original")
    options: dict[str, Argument] = {
        "checkpoint": Inside(MODEL),
        "output": OUT,
        "try": ",".join(candidate.name for candidate in candidates),
        "format": quantization.format,
        "kv-cache": quantization.kv_cache,
        **walk_options(held_out),
    }
    inputs = [Input(shape.model_step, MODEL)]
    if runs_the_model(recipe):
        calibration = walk_options(quantization.calibration)
        options |= {f"calibration-{name}": value for name, value in calibration.items() if name != "scratch"}
    if needs_text(recipe):
        options["calibration"] = Inside(CALIBRATION, TEXT)
        inputs.append(Input("calibration", CALIBRATION))
    if held_out.dataset != RANDOM:
        options["text"] = Inside(HELD_OUT, TEXT)
        inputs.append(Input("held-out", HELD_OUT))
    if quantization.smoothing != "none":
        options["smoothing"] = quantization.smoothing
    if quantization.resources.device != "auto":
        options["device"] = quantization.resources.device
    excluded: list[Argument] = [argument for pattern in quantization.exclude for argument in ("--exclude", pattern)]
    return walk_step(shape, STEP, options, inputs, (Output(RESULT, "json"),), *excluded)
