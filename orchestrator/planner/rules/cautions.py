"""Rules that warn: what may go wrong without a known refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.errors import Refusal
from orchestrator.planner.asking import question_of
from orchestrator.planner.case import Case
from orchestrator.planner.figures import gigabytes
from orchestrator.planner.known import known_model
from orchestrator.planner.making import BUILD_FACTOR, build_capacity, engine_memory
from orchestrator.planner.memory import serve_capacity, serve_memory
from orchestrator.planner.rules.faults import matching
from orchestrator.planner.serving import EAGER_LOAD, ONE_BY_ONE, room_per_gpu
from orchestrator.recipe.model import HubModel

_TIGHT = 0.9
_MAX_UNIFIED_FRACTION = 0.9


def known_faults(case: Case) -> Iterator[Refusal]:
    """Faults with effect `warn` whose conditions all hold."""
    for fault in matching(case, case.image, case.quantizer):
        if fault.effect == "warn":
            yield Refusal(fault.code, f"{fault.message} ({fault.source})", fault.hint)


def engine_memory_is_tight(case: Case) -> Iterator[Refusal]:
    """Building a TensorRT engine takes several times the memory of its weights."""
    needed = engine_memory(case.recipe)
    room = build_capacity(case.target)
    if needed is not None and needed.value > room:
        has = f"{case.recipe.target} has {gigabytes(room)}"
        message = f"building the engine may need {needed}, {BUILD_FACTOR:.1f} times the weights; {has}"
        yield Refusal("ENGINE_MEMORY", message, "if it runs out of memory, serve the checkpoint: backend pytorch")


def serving_memory_is_tight(case: Case) -> Iterator[Refusal]:
    """Little memory is left for the KV cache."""
    needed = serve_memory(case.recipe, case.target)
    room = serve_capacity(case.recipe, case.target)
    if room * _TIGHT < needed.value <= room:
        message = f"weights take {needed} of {gigabytes(room)}; little is left for the KV cache"
        yield Refusal("MEMORY_TIGHT", message, "serve short requests and few at a time, or use a smaller format")


def loading_is_tight(case: Case) -> Iterator[Refusal]:
    """A loader that pins all weights before it copies them holds them nearly twice, and the machine freezes."""
    known = known_model(case.recipe)
    told = case.recipe.backend == "tensorrt" or ONE_BY_ONE in case.recipe.serve.environment
    if known is None or told or not case.target.unified_memory:
        return
    weights = question_of(case.recipe, known, case.target).serving.weights
    room = room_per_gpu(case.target)
    if weights <= room < EAGER_LOAD * weights:
        pinned = gigabytes(EAGER_LOAD * weights)
        message = (
            f"loading may take up to {pinned}, {EAGER_LOAD} times the weights, where all are pinned at once;"
            f" {case.recipe.target} has {gigabytes(room)}"
        )
        yield Refusal("LOAD_MEMORY", message, f'if it runs out of memory, set serve.environment.{ONE_BY_ONE} to "1"')


def cache_leaves_room_for_the_system(case: Case) -> Iterator[Refusal]:
    """On unified memory the system needs what the KV cache leaves. Without it the machine freezes."""
    fraction = case.recipe.serve.kv_cache.free_gpu_memory_fraction
    if case.target.unified_memory and fraction > _MAX_UNIFIED_FRACTION:
        message = f"serve.kv_cache.free_gpu_memory_fraction {fraction} can starve the system, which then freezes"
        yield Refusal("UNIFIED_MEMORY", message, "use 0.9 at most; NVIDIA's playbooks use 0.8 to 0.9")


def hybrid_reuses_no_blocks(case: Case) -> Iterator[Refusal]:
    """The state of Mamba layers is not in the KV cache, so its blocks cannot be reused."""
    if case.recipe.model.architecture == "NemotronHForCausalLM" and case.recipe.serve.kv_cache.enable_block_reuse:
        message = "hybrid Mamba models do not reuse blocks of the KV cache"
        yield Refusal("HYBRID_BLOCK_REUSE", message, "set serve.kv_cache.enable_block_reuse to false")


def engine_options_are_used(case: Case) -> Iterator[Refusal]:
    """Options of a TensorRT engine that is not built have no effect."""
    if case.recipe.backend == "pytorch" and (case.recipe.engine.convert or case.recipe.engine.build):
        message = "engine.convert and engine.build are for backend tensorrt; nothing reads them here"
        yield Refusal("ENGINE_OPTIONS_UNUSED", message, "remove them, or use backend tensorrt")


def code_is_trusted(case: Case) -> Iterator[Refusal]:
    """A build refuses to run a model's own code until the user trusts it. The plan warns of this."""
    recipe = case.recipe
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


def every_gpu_serves(case: Case) -> Iterator[Refusal]:
    """Fewer parts than GPUs leave some GPUs idle."""
    if case.target.gpu is None:
        return
    gpus = case.target.gpu.count * case.target.nodes
    parts = case.recipe.serve.tensor_parallel_size
    if parts < gpus:
        message = f"serve.tensor_parallel_size is {parts}; {case.recipe.target} has {gpus} GPUs"
        yield Refusal("IDLE_GPUS", message, f"set it to {gpus}")
