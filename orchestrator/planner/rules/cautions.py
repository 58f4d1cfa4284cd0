"""Rules that warn: what may go wrong without a known refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from orchestrator.errors import Refusal
from orchestrator.planner.phases import building, peak_words
from orchestrator.planner.rule_input import RuleInput
from orchestrator.planner.rules.faults import matching
from orchestrator.planner.serving import EAGER_LOAD
from orchestrator.recipe.model import Calibration, HubModel, Resources
from orchestrator.units import in_bytes

_TIGHT = 0.9
_SMALLER = "use a smaller format"
_MAX_UNIFIED_FRACTION = 0.9
_USED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"none": (), "onepass": ("calibration", "resources"), "trtllm": ("calibration", "options", "image")}
)
"""By method, the settings of `quantization` that it uses; ModelOpt uses all."""


def known_faults(given: RuleInput) -> Iterator[Refusal]:
    """Faults with effect `warn` whose conditions all hold."""
    for fault in matching(given, given.image, given.quantizer):
        if fault.effect == "warn":
            yield Refusal(fault.code, f"{fault.message} ({fault.source})", fault.hint)


def is_experimental(given: RuleInput) -> Iterator[Refusal]:
    """Some images were never tried by this project."""
    if given.image.experimental:
        message = f"image {given.recipe.image} is experimental: {given.image.experimental}"
        yield Refusal("EXPERIMENTAL", message, "expect that it may not build or start, and compare its answers")


def engine_memory_is_tight(given: RuleInput) -> Iterator[Refusal]:
    """Building a TensorRT engine takes several times the memory of its weights."""
    needed = building(given.model.weights.value, given.target)
    if given.recipe.backend == "tensorrt" and not needed.fits:
        has = f"{given.recipe.target} has {in_bytes(needed.available)}"
        message = f"converting and building the TensorRT engine needs {peak_words(needed)}; {has}"
        yield Refusal("ENGINE_MEMORY", message, "if it runs out of memory, serve the checkpoint: backend pytorch")


def serving_memory_is_tight(given: RuleInput) -> Iterator[Refusal]:
    """Little memory is left for the KV cache."""
    needed, available = given.model.serving_memory, given.model.available_memory
    if _sizes_are_known(given) and available * _TIGHT < needed.value <= available:
        message = f"weights take {needed} of {in_bytes(available)}; little is left for the KV cache"
        yield Refusal("MEMORY_TIGHT", message, f"serve short requests and few at a time, or {_SMALLER}")


def serving_memory_is_enough(given: RuleInput) -> Iterator[Refusal]:
    """The lower bound of a model of unknown sizes takes nearly all memory, or more than CUDA sees."""
    needed, target = given.model.serving_memory, given.target
    available, seen = given.model.available_memory, (target.cuda_free or target.usable_memory) * target.nodes
    if not _sizes_are_known(given) and min(available * _TIGHT, seen) < needed.value <= available:
        has = f"{given.recipe.target} has {in_bytes(available)}, of which CUDA sees {in_bytes(min(seen, available))}"
        yield Refusal("SERVING_MEMORY", f"the weights alone take {needed}; {has}", _SMALLER)


def _sizes_are_known(given: RuleInput) -> bool:
    return given.model.known is not None or not given.model.has_server


def loading_is_tight(given: RuleInput) -> Iterator[Refusal]:
    """A loader that pins all weights before it copies them holds them nearly twice, and the machine freezes."""
    serving, variable = given.model.serving, given.runtime.LOADS_ONE_BY_ONE
    if serving is None or variable is None or not given.target.unified_memory:
        return
    if given.recipe.backend == "tensorrt" or variable in given.recipe.serve.environment:
        return
    if serving.weights <= serving.available < EAGER_LOAD * serving.weights:
        pinned = in_bytes(EAGER_LOAD * serving.weights)
        message = (
            f"loading may take up to {pinned}, {EAGER_LOAD} times the weights, if the loader pins all at once;"
            f" {given.recipe.target} has {in_bytes(serving.available)}"
        )
        yield Refusal("LOAD_MEMORY", message, f'if it runs out of memory, set serve.environment.{variable} to "1"')


def cache_leaves_memory_for_the_system(given: RuleInput) -> Iterator[Refusal]:
    """On unified memory the system needs what the KV cache leaves. Without it the machine freezes."""
    fraction = given.recipe.serve.kv_cache.free_gpu_memory_fraction
    if given.target.unified_memory and fraction > _MAX_UNIFIED_FRACTION:
        message = (
            f"serve.kv_cache.free_gpu_memory_fraction {fraction} may leave the system without memory, and it freezes"
        )
        yield Refusal("UNIFIED_MEMORY", message, "use 0.9 at most; NVIDIA's playbooks use 0.8 to 0.9")


def hybrid_reuses_no_blocks(given: RuleInput) -> Iterator[Refusal]:
    """The state of Mamba layers is not in the KV cache, so its blocks cannot be reused."""
    if given.recipe.model.architecture == "NemotronHForCausalLM" and given.recipe.serve.kv_cache.enable_block_reuse:
        message = "hybrid Mamba models do not reuse blocks of the KV cache"
        yield Refusal("HYBRID_BLOCK_REUSE", message, "set serve.kv_cache.enable_block_reuse to false")


def engine_options_are_used(given: RuleInput) -> Iterator[Refusal]:
    """Options of a TensorRT engine that is not built have no effect."""
    if given.recipe.backend == "pytorch" and (given.recipe.engine.convert or given.recipe.engine.build):
        message = "engine.convert and engine.build are for backend tensorrt; backend pytorch does not read them"
        yield Refusal("ENGINE_OPTIONS_UNUSED", message, "remove them, or use backend tensorrt")


def quantization_is_used(given: RuleInput) -> Iterator[Refusal]:
    """Settings of a quantizer that does not run have no effect."""
    quantization = given.quantization
    settings = {
        "calibration": quantization.calibration != Calibration(),
        "resources": quantization.resources != Resources(),
        "options": bool(quantization.options),
        "image": quantization.image is not None,
    }
    used = _USED.get(quantization.method, settings)
    unused = [name for name, is_set in settings.items() if is_set and name not in used]
    if unused:
        names = ", ".join(f"quantization.{name}" for name in unused)
        message = f"method {quantization.method} does not use {names}"
        yield Refusal("QUANTIZATION_UNUSED", message, "remove it, or use another method")


def code_is_trusted(given: RuleInput) -> Iterator[Refusal]:
    """A build refuses to run a model's own code until the user trusts it. The plan warns of this."""
    recipe = given.recipe
    places: dict[str, Mapping[str, object]] = {
        "quantization.options": recipe.quantization.options,
        "engine.convert": recipe.engine.convert,
        "engine.build": recipe.engine.build,
        "serve.options": recipe.serve.options,
    }
    asked = [place for place, options in places.items() if options.get("trust_remote_code")]
    if asked and isinstance(recipe.model, HubModel) and not (recipe.model.trust and recipe.model.trust.remote_code):
        message = (
            f"{asked[0]}.trust_remote_code runs code that comes with {recipe.model.repo}; no commit is trusted yet"
        )
        hint = (
            f"read it on https://huggingface.co/{recipe.model.repo}, then add this line below `model:` in the recipe:\n"
            "  trust: {commit: <the 40 digits of that commit>, remote_code: true}"
        )
        yield Refusal("CODE_NOT_TRUSTED", message, hint)


def every_gpu_serves(given: RuleInput) -> Iterator[Refusal]:
    """Fewer parts than GPUs leave some GPUs idle."""
    if given.target.gpu is None:
        return
    gpus = given.target.gpu.count * given.target.nodes
    parts = given.recipe.serve.tensor_parallel_size
    if parts < gpus:
        message = f"serve.tensor_parallel_size is {parts}; {given.recipe.target} has {gpus} GPUs"
        yield Refusal("IDLE_GPUS", message, f"set it to {gpus}")
