"""What may go wrong although nothing is known to forbid it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.planner.case import Case
from orchestrator.planner.figures import gigabytes
from orchestrator.planner.memory import build_capacity, engine_memory, serve_capacity, serve_memory
from orchestrator.planner.rules.faults import matching

_TIGHT = 0.9
_MAX_UNIFIED_FRACTION = 0.9


@dataclass(frozen=True)
class PlanWarning:
    """One thing to know before building."""

    code: str
    message: str
    hint: str


def known_faults(case: Case) -> Iterator[PlanWarning]:
    """Faults with effect `warn` whose every condition holds."""
    for fault in matching(case, case.image, case.quantizer):
        if fault.effect == "warn":
            yield PlanWarning(fault.code, f"{fault.message} ({fault.source})", fault.hint)


def engine_memory_is_tight(case: Case) -> Iterator[PlanWarning]:
    """Building an engine takes several times the memory of its weights."""
    needed = engine_memory(case.recipe)
    room = build_capacity(case.target)
    if needed is not None and needed.value > room:
        message = f"building the engine may need {needed} ({needed.basis}); {case.recipe.target} has {gigabytes(room)}"
        yield PlanWarning("ENGINE_MEMORY", message, "if it runs out of memory, serve the checkpoint: backend pytorch")


def serving_memory_is_tight(case: Case) -> Iterator[PlanWarning]:
    """Little is left for the KV cache."""
    needed = serve_memory(case.recipe)
    room = serve_capacity(case.recipe, case.target)
    if room * _TIGHT < needed.value <= room:
        message = f"weights take {needed} of {gigabytes(room)}; little is left for the KV cache"
        yield PlanWarning("MEMORY_TIGHT", message, "serve short requests and few at a time, or use a smaller format")


def cache_leaves_room_for_the_system(case: Case) -> Iterator[PlanWarning]:
    """On unified memory the system lives in what the KV cache leaves: without it the machine freezes."""
    fraction = case.recipe.serve.kv_cache.free_gpu_memory_fraction
    if case.target.unified_memory and fraction > _MAX_UNIFIED_FRACTION:
        message = f"serve.kv_cache.free_gpu_memory_fraction {fraction} can starve the system, which then freezes"
        yield PlanWarning("UNIFIED_MEMORY", message, "use 0.9 at most; NVIDIA's playbooks use 0.8 to 0.9")


def hybrid_reuses_no_blocks(case: Case) -> Iterator[PlanWarning]:
    """The state of Mamba layers is not in the KV cache, so its blocks cannot be reused."""
    if case.recipe.model.architecture == "NemotronHForCausalLM" and case.recipe.serve.kv_cache.enable_block_reuse:
        message = "hybrid Mamba models do not reuse blocks of the KV cache"
        yield PlanWarning("HYBRID_BLOCK_REUSE", message, "set serve.kv_cache.enable_block_reuse to false")


def engine_options_are_used(case: Case) -> Iterator[PlanWarning]:
    """Options of an engine that is not built say something about nothing."""
    if case.recipe.backend == "pytorch" and (case.recipe.engine.convert or case.recipe.engine.build):
        message = "engine.convert and engine.build are for backend tensorrt; nothing reads them here"
        yield PlanWarning("ENGINE_OPTIONS_UNUSED", message, "remove them, or use backend tensorrt")


def every_gpu_serves(case: Case) -> Iterator[PlanWarning]:
    """Fewer parts than GPUs leave some idle."""
    if case.target.gpu is None:
        return
    gpus = case.target.gpu.count * case.target.nodes
    parts = case.recipe.serve.tensor_parallel_size
    if parts < gpus:
        message = f"serve.tensor_parallel_size is {parts}; {case.recipe.target} has {gpus} GPUs"
        yield PlanWarning("IDLE_GPUS", message, f"set it to {gpus}")


Rule: TypeAlias = Callable[[Case], Iterable[PlanWarning]]

RULES: tuple[Rule, ...] = (
    known_faults,
    engine_memory_is_tight,
    serving_memory_is_tight,
    cache_leaves_room_for_the_system,
    hybrid_reuses_no_blocks,
    engine_options_are_used,
    every_gpu_serves,
)


def warnings(case: Case) -> tuple[PlanWarning, ...]:
    """Apply every rule."""
    return tuple(dict.fromkeys(warning for rule in RULES for warning in rule(case)))
