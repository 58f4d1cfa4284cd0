"""Rules about formats: which kernels run them, and which tool makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from orchestrator.catalog.image import Image
from orchestrator.errors import Refusal
from orchestrator.planner.known import made
from orchestrator.planner.preparation import calibrates
from orchestrator.planner.rule_input import RuleInput
from orchestrator.quantization import format_names
from orchestrator.quantization.refused import reason
from orchestrator.recipe.model import Format

NEAREST: Mapping[str, tuple[Format, ...]] = MappingProxyType(
    {
        "w4a16_nvfp4": ("nvfp4", "int4_awq", "fp8", "bf16"),
        "nvfp4": ("fp8", "int4_awq", "bf16"),
        "mxfp4": ("nvfp4", "fp8", "bf16"),
        "int4_awq": ("nvfp4", "fp8", "bf16"),
        "fp8": ("nvfp4", "bf16"),
        "bf16": (),
    }
)
"""Replacements for a format, those of similar size first."""


def has_kernels(given: RuleInput) -> Iterator[Refusal]:
    """The image holds kernels for the format on the target's GPU."""
    wanted = given.weight_format
    if given.sm is None or wanted in ("fp8_block_scale", *given.image.misread_formats, *_kernels(given, given.image)):
        return
    message = f"image {given.recipe.image} has no kernels for {wanted} on SM {given.sm}"
    able = given.images_where(lambda image: wanted in _kernels(given, image))
    nearest = [name for name in NEAREST[wanted] if name in _kernels(given, given.image)]
    ways = ([f"image {able[-1]}"] if able else []) + ([in_format(given, nearest[0])] if nearest else [])
    yield Refusal("FORMAT_UNSUPPORTED", message, f"use {' or '.join(ways)}" if ways else "use another target")


def reads_it_as_it_is(given: RuleInput) -> Iterator[Refusal]:
    """Some builders of engines accept a format and multiply it in another way. One layer of a checkpoint is enough."""
    known = given.model.known
    stored = {known.served.algorithm, *(known.served.modules or {}).values()} if known else set()
    for name, what in given.image.misread_formats.items():
        if name == given.weight_format or name.upper() in stored:
            where = "" if name == given.quantization.format else ", which some layers of this checkpoint have"
            message = f"image {given.recipe.image} must not get {name}{where}: {given.runtime.LABEL} {what}"
            nearest = next(each for each in NEAREST[name] if each in _kernels(given, given.image))
            yield Refusal("FORMAT_UNSUPPORTED", message, f"use {in_format(given, nearest)}, or an image of vLLM")


def has_block_scale_kernels(given: RuleInput) -> Iterator[Refusal]:
    """FP8 with a scale per block needs kernels of its own, and GB10 has none."""
    wanted = given.weight_format
    if given.sm is None or wanted != "fp8_block_scale" or wanted in _kernels(given, given.image):
        return
    yield block_scales_refused(given.recipe.image, given.sm)


def block_scales_refused(image: str, sm: int) -> Refusal:
    """Report that an image has no kernels for FP8 with a scale per block on a GPU."""
    message = (
        f"the FP8 weights have block scales, which image {image} does not run on SM {sm} "
        "(https://github.com/NVIDIA/TensorRT-LLM/issues/17126)"
    )
    hint = "use a checkpoint with one scale per tensor, such as those named nvidia/*-FP8, or format nvfp4"
    return Refusal("FP8_BLOCK_SCALE", message, hint)


def engines_have_one_format(given: RuleInput) -> Iterator[Refusal]:
    """The conversion to a TensorRT engine supports one format for the whole model.

    `convert_checkpoint.py` takes it from its own options, `--use_nvfp4` or `--use_fp8`, and ignores ModelOpt's
    `quantized_layers`. And `trtllm-build` reads the formats of single layers from a `quant_cfg.json` that the
    conversion does not write.
    """
    if given.recipe.backend == "tensorrt" and given.runtime.CONVERTS and given.quantization.format == "auto":
        message = (
            "format auto mixes formats (ModelOpt's MIXED_PRECISION), and the conversion to a TensorRT engine"
            " supports one for the whole model"
        )
        yield Refusal("FORMAT_UNSUPPORTED", message, "use backend pytorch, which loads it, or format nvfp4 or fp8")


def engine_has_its_cache(given: RuleInput) -> Iterator[Refusal]:
    """The KV cache of a TensorRT engine has the type that it is built with: that of the checkpoint's scales."""
    built, asked = given.quantization.kv_cache, given.recipe.serve.kv_cache.dtype
    if given.recipe.backend == "tensorrt" and asked not in ("auto", built):
        message = f"serve.kv_cache.dtype {asked} does not reach a TensorRT engine, which is built with {built}"
        other = ", or use backend pytorch" if given.runtime.HAS_BACKENDS else ""
        yield Refusal("KV_CACHE_UNSUPPORTED", message, f"set quantization.kv_cache to {asked}{other}")


def mxfp4_is_gpt_oss(given: RuleInput) -> Iterator[Refusal]:
    """TensorRT-LLM loads MXFP4 only as OpenAI publishes it. It cannot read what ModelOpt writes under that name."""
    if given.quantization.format != "mxfp4":
        return
    if given.recipe.model.architecture != "GptOssForCausalLM":
        message = f"{given.runtime.LABEL} loads MXFP4 only from OpenAI's own gpt-oss checkpoints"
        yield Refusal("FORMAT_UNSUPPORTED", message, "use format nvfp4")


def gpt_oss_stays_as_it_is(given: RuleInput) -> Iterator[Refusal]:
    """The weights of gpt-oss are published in MXFP4. Quantizing them again only loses precision."""
    if given.recipe.model.architecture == "GptOssForCausalLM" and given.quantization.method != "none":
        message = "gpt-oss is published in MXFP4; quantizing it again loses precision and gains nothing"
        yield Refusal("REQUANTIZE", message, "use format mxfp4 with method none")


def awq_is_dense(given: RuleInput) -> Iterator[Refusal]:
    """There is no INT4-AWQ kernel for mixtures of experts."""
    if given.quantization.format == "int4_awq" and given.recipe.model.active_parameters:
        message = f"{given.runtime.LABEL} has no INT4-AWQ kernels for mixtures of experts"
        yield Refusal("FORMAT_UNSUPPORTED", message, "use format nvfp4")


def has_kv_cache_kernels(given: RuleInput) -> Iterator[Refusal]:
    """The image holds kernels for the KV cache's format on the target's GPU."""
    if given.sm is None:
        return
    kernels = given.image.kv_cache_formats.get(f"sm_{given.sm}", ())
    settings = {
        "quantization.kv_cache": given.quantization.kv_cache,
        "serve.kv_cache.dtype": given.recipe.serve.kv_cache.dtype,
    }
    for setting, wanted in settings.items():
        if wanted not in ("none", "auto", *kernels):
            message = f"{setting} is {wanted}, but image {given.recipe.image} has no kernels for it on SM {given.sm}"
            yield Refusal("KV_CACHE_UNSUPPORTED", message, f"use {' or '.join(kernels) or 'auto'}")


def method_makes_the_scales(given: RuleInput) -> Iterator[Refusal]:
    """Our own quantizer writes scales only for FP8 caches."""
    wanted = given.quantization.kv_cache
    if given.quantization.method == "onepass" and wanted not in format_names.KV_CACHE_FORMATS:
        message = f"method onepass writes no {wanted} scales for the KV cache"
        hint = "set quantization.kv_cache to fp8 or none, or use method modelopt"
        yield Refusal("KV_CACHE_UNSUPPORTED", message, hint)


def method_can(given: RuleInput) -> Iterator[Refusal]:
    """The method's tool exists and makes the format."""
    match given.quantization.method:
        case "onepass":
            yield from _onepass_can(given)
        case "modelopt":
            yield from _modelopt_can(given)
        case "trtllm":
            yield from _trtllm_can(given)
        case "none":
            return


def _onepass_can(given: RuleInput) -> Iterator[Refusal]:
    hint = "use method modelopt with quantization.image quantizer-0.46.0"
    if given.quantization.format not in format_names.FORMATS:
        message = f"method onepass makes {', '.join(format_names.FORMATS)}, not {given.quantization.format}"
        yield Refusal("METHOD_UNSUPPORTED", message, hint)
    if found := onepass_refuses(given):
        model, name = given.recipe.model.architecture, given.quantization.format
        message = f"method onepass does not quantize {model} to {name}: {found}"
        yield Refusal("MODEL_UNSUPPORTED", message, hint)


def can_be_compared(given: RuleInput) -> Iterator[Refusal]:
    """Our own code runs a model's layers to compare it with its original, whichever method quantized it."""
    if given.recipe.checks.held_out and (found := onepass_refuses(given, compares=True)):
        message = f"{given.recipe.model.architecture} cannot be compared with its original: {found}"
        yield Refusal("MODEL_UNSUPPORTED", message, "leave checks.held_out out")


def onepass_refuses(given: RuleInput, *, compares: bool = False) -> str | None:
    """Return why method onepass cannot quantize the model, or, with `compares`, why our code cannot run it."""
    recipe, quantization, known = given.recipe, given.quantization, given.model.known
    return reason(
        recipe.model.architecture,
        known.shape.model_type if known else None,
        quantization.format,
        runs_model=compares or calibrates(made(recipe), quantization.choices),
    )


def _modelopt_can(given: RuleInput) -> Iterator[Refusal]:
    if given.target.gpu is None:
        message = "hf_ptq.py refuses to run without a GPU"
        yield Refusal("METHOD_UNSUPPORTED", message, "use method onepass with format w4a16_nvfp4")
    if not given.quantizer.has("hf_ptq.py"):
        able = [name for name, image in given.images.items() if _quantizes_on(given, image)]
        message = f"image {given.quantizer_name} has no hf_ptq.py for method modelopt"
        yield Refusal("METHOD_UNSUPPORTED", message, f"set quantization.image to {' or '.join(able)}")


def _trtllm_can(given: RuleInput) -> Iterator[Refusal]:
    hint = "use method modelopt with quantization.image quantizer-0.46.0"
    if given.recipe.backend != "tensorrt":
        message = "quantize.py writes a checkpoint for TensorRT engines, which backend pytorch does not load"
        yield Refusal("METHOD_UNSUPPORTED", message, hint)
    if not given.quantizer.has("quantize.py"):
        message = f"image {given.quantizer_name} has no quantize.py for method trtllm"
        yield Refusal("METHOD_UNSUPPORTED", message, hint)
    elif given.quantization.format not in given.options(given.quantizer, "quantize.py")["--qformat"].choices:
        message = f"quantize.py of image {given.quantizer_name} does not make {given.quantization.format}"
        yield Refusal("METHOD_UNSUPPORTED", message, hint)


def _quantizes_on(given: RuleInput, image: Image) -> bool:
    return image.has("hf_ptq.py") and given.target.architecture in image.architectures


def in_format(given: RuleInput, name: Format) -> str:
    """Say how a recipe gets another format: what else it has to set."""
    asked = given.quantization
    method: str = asked.method
    if method == "none" and asked.format != "bf16":
        return f"a checkpoint in format {name}"
    if name == "bf16":
        method = "none"
    elif method in {"none", "onepass"}:
        method = "onepass" if name in format_names.SINGLE_FORMATS else "modelopt"
    more = [
        *([f"method {method}"] if method != asked.method else []),
        *(["scale_search max"] if asked.scale_search != "max" and name not in format_names.SEARCHED_FORMATS else []),
        *(["rounding nearest"] if asked.rounding != "nearest" and name not in format_names.ROUNDED_FORMATS else []),
        *(["smoothing none"] if asked.smoothing != "none" and name not in format_names.SMOOTHED_FORMATS else []),
        *(
            ["input_scales max"]
            if asked.input_scales != "max" and name not in format_names.FORMATS_OF_4_BIT_INPUTS
            else []
        ),
        *(["layer_inputs original"] if asked.layer_inputs != "original" and name not in ("nvfp4", "fp8") else []),
        *(["budget null"] if asked.budget is not None else []),
    ]
    return f"format {name}{' with ' * bool(more)}{' and '.join(more)}"


def _kernels(given: RuleInput, image: Image) -> tuple[str, ...]:
    return image.formats.get(f"sm_{given.sm}", ())
