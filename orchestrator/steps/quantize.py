"""Declares the quantization: by our own code, ModelOpt's hf_ptq.py or TensorRT-LLM's quantize.py."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.errors import RecipeInvalidError
from orchestrator.executors.job import Argument, Inside
from orchestrator.recipe.model import OptionValue, Recipe
from orchestrator.steps.calibration import TEXT, needs_text, runs_the_model
from orchestrator.steps.options import OptionTable
from orchestrator.steps.shape import (
    CALIBRATION,
    HF_CHECKPOINT,
    MODEL,
    OFFLINE,
    OUT,
    TRTLLM_CHECKPOINT_FILES,
    Shape,
    payload,
    walk_options,
    walk_step,
)
from orchestrator.steps.step import Input, Output, Step


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the quantization.

    Raises:
        RecipeInvalidError: The quantizer does not support the recipe.
    """
    shape = Shape(recipe, catalog)
    if recipe.quantization.exclude and recipe.quantization.method in ("modelopt", "trtllm"):
        message = f"{recipe.name}: quantization.exclude: the quantizers of NVIDIA have no option for patterns"
        hint = "use method onepass, or name a recipe of ModelOpt in quantization.options.recipe"
        raise RecipeInvalidError(message, hint=hint)
    match recipe.quantization.method:
        case "onepass":
            return _onepass(shape)
        case "modelopt":
            return _modelopt(shape)
        case "trtllm":
            return _trtllm(shape)
        case "none":
            return None


def _onepass(shape: Shape) -> Step:
    quantization = shape.recipe.quantization
    excluded: list[Argument] = [argument for pattern in quantization.exclude for argument in ("--exclude", pattern)]
    options: dict[str, Argument] = {"checkpoint": Inside(MODEL), "output": OUT, "format": quantization.format}
    if quantization.scale_search != "max":  # the default leaves the keys of earlier results
        options["scale-search"] = quantization.scale_search
    if quantization.rounding != "nearest":
        options["rounding"] = quantization.rounding
    if quantization.smoothing != "none":
        options["smoothing"] = quantization.smoothing
    if quantization.input_scales != "max":
        options["input-scales"] = quantization.input_scales
    if quantization.layer_inputs != "original":
        options["layer-inputs"] = quantization.layer_inputs
    if runs_the_model(shape.recipe):
        return _calibrated(shape, options, [*excluded, *(["--shared-scales"] if quantization.shared_scales else [])])
    if quantization.layer_inputs != "original":
        chosen = f"{shape.recipe.name}: quantization.layer_inputs {quantization.layer_inputs}"
        message = f"{chosen} is a choice of calibration, and {quantization.format} has none with these choices"
        hint = "leave layer_inputs out, or set scale_search: weighted, rounding: gptq or smoothing: norms"
        raise RecipeInvalidError(message, hint=hint)
    return Step(
        name="quantize",
        argv=payload("quantize", options, *excluded),
        outputs=(*HF_CHECKPOINT, Output("hf_quant_config.json", "json")),
        image=shape.container,
        portable=True,
        inputs=(Input(shape.model_step, MODEL),),
        needs_code=True,
        limits=shape.resources,
    )


def _calibrated(shape: Shape, options: dict[str, Argument], more: list[Argument]) -> Step:
    """Run the model: the image has torch; this machine's Python has it if the user installed it."""
    quantization, calibration = shape.recipe.quantization, shape.recipe.quantization.calibration
    options |= {
        "kv-cache": quantization.kv_cache,
        **walk_options(calibration),
    }
    budget = quantization.budget
    if budget is not None and budget.bits_per_weight is not None:
        options["bits-per-weight"] = str(budget.bits_per_weight)
    elif budget is not None:
        options["budget-bytes"] = str(budget.bytes)
    if quantization.resources.device != "auto":
        options["device"] = quantization.resources.device
    inputs = [Input(shape.model_step, MODEL)]
    if needs_text(shape.recipe):
        options["calibration"] = Inside(CALIBRATION, TEXT)
        inputs.append(Input("calibration", CALIBRATION))
    outputs = (*HF_CHECKPOINT, Output("hf_quant_config.json", "json"), Output("quantization.json", "json"))
    return walk_step(shape, "quantize", options, inputs, outputs, *more)


def _modelopt(shape: Shape) -> Step | None:
    recipe = shape.recipe
    name = shape.quantizer_image
    image = shape.catalog.image(name)
    if not image.has("hf_ptq.py"):
        return None  # the plan refuses
    quantization, calibration = recipe.quantization, recipe.quantization.calibration
    own: dict[str, Argument] = {
        "pyt_ckpt_path": Inside(MODEL),
        "export_path": OUT,
        "dataset": Inside(CALIBRATION, TEXT),
        "calib_size": str(calibration.samples),
        "calib_seq": str(calibration.sequence_length),
        "batch_size": str(calibration.batch_size),
    }
    if "recipe" not in quantization.options:  # ModelOpt's own recipe decides both, and excludes these options
        own |= {"qformat": quantization.format, "kv_cache_qformat": quantization.kv_cache}
    table = OptionTable(
        f"{recipe.name}: quantization.options", quantization.options, shape.catalog.options(image, "hf_ptq.py")
    )
    return Step(
        name="quantize",
        argv=(*image.tools["hf_ptq.py"].command, *table.merged(own)),
        outputs=(*HF_CHECKPOINT, Output("hf_quant_config.json", "json")),
        image=name,
        inputs=(Input(shape.model_step, MODEL), Input("calibration", CALIBRATION)),
        environment=OFFLINE,
        gpus=shape.gpus,
        identity={**shape.host, "modelopt": image.modelopt or ""},
    )


def _trtllm(shape: Shape) -> Step | None:
    recipe = shape.recipe
    if not shape.has("quantize.py"):
        return None  # the plan refuses
    quantization, calibration = recipe.quantization, recipe.quantization.calibration
    own: dict[str, Argument] = {
        "model_dir": Inside(MODEL),
        "output_dir": OUT,
        "calib_dataset": Inside(CALIBRATION),
        "calib_size": str(calibration.samples),
        "calib_max_seq_length": str(calibration.sequence_length),
        "batch_size": str(calibration.batch_size),
        "qformat": quantization.format,
    }
    if quantization.kv_cache != "none":
        own["kv_cache_dtype"] = quantization.kv_cache
    defaults: dict[str, OptionValue] = {"tp_size": recipe.serve.tensor_parallel_size}
    known = shape.catalog.options(shape.image, "quantize.py")
    table = OptionTable(f"{recipe.name}: quantization.options", quantization.options, known)
    return Step(
        name="quantize",
        argv=(*shape.command("quantize.py"), *table.merged(own, defaults)),
        outputs=TRTLLM_CHECKPOINT_FILES,
        image=recipe.image,
        inputs=(Input(shape.model_step, MODEL), Input("calibration", CALIBRATION)),
        environment=OFFLINE,
        gpus=shape.gpus,
        identity=shape.host,
    )
