"""Rules about the machine: its processor, its memory, its GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.catalog.target import Target
from orchestrator.errors import Refusal
from orchestrator.planner.figures import Figure
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.phases import peaks
from orchestrator.planner.preparation import Preparation
from orchestrator.planner.rule_input import RuleInput
from orchestrator.planner.rules.formats import in_format, onepass_refuses
from orchestrator.planner.serving import memory_per_node
from orchestrator.planner.weights import BITS, weights_in
from orchestrator.quantization import format_names
from orchestrator.recipe.model import Cluster
from orchestrator.units import in_bytes

_COUNTS = (2, 4, 8)
"""GPUs of common machines."""


PODS_APART = (
    "RDMA over the link locks memory, which Kubernetes allows a container that is not root only as far as each node's "
    "container runtime does (LimitMEMLOCK), and beyond that NCCL falls back to sockets without an error"
)
"""Why no LeaderWorkerSet is written: its file could not say what decides its speed.

Kubernetes has no field for the limit, and the capability IPC_LOCK counts for root only:
https://github.com/NVIDIA/nvidia-container-toolkit/issues/2037. The RDMA device, its network and its interfaces differ
from cluster to cluster as well.
"""


def built_for_the_processor(given: RuleInput) -> Iterator[Refusal]:
    """An image runs on the processors it was built for. Without containers, none is needed."""
    if given.target.gpu is None:
        return
    wanted = given.target.architecture
    named = {given.recipe.image: given.image, given.quantizer_name: given.quantizer}
    for name, image in named.items():
        if wanted not in image.architectures:
            message = f"image {name} is built for {', '.join(image.architectures)}; {given.recipe.target} is {wanted}"
            fitting = [other for other in given.images if _can_replace(given, name, other)]
            there = f"images for {wanted}: {', '.join(fitting)}"
            hint = there if fitting else f"use a target with {' or '.join(image.architectures)}"
            yield Refusal("ARCHITECTURE_MISMATCH", message, hint)


def _can_replace(given: RuleInput, name: str, other: str) -> bool:
    ours, theirs = given.images[name], given.images[other]
    return given.target.architecture in theirs.architectures and ours.tools.keys() <= theirs.tools.keys()


def fits_when_quantized(given: RuleInput) -> Iterator[Refusal]:
    """The calibrating tools hold the whole model in the memory of one node."""
    needed, available = given.model.preparation.quantizing, memory_per_node(given.target)
    if needed is not None and needed.value > available:
        if given.quantization.rounding == "gptq":
            hint = "leave rounding out: gptq needs the products of every two inputs of a layer's modules in memory"
            yield Refusal("DOES_NOT_FIT", _too_large("quantizing", needed, available, given.recipe.target), hint)
            return
        hint = "use NVIDIA's quantized checkpoint with method none, if there is one"
        ours = given.quantization.format in format_names.FORMATS and given.quantization.method != "onepass"
        if ours and not onepass_refuses(given):
            hint = f"use method onepass, which holds few layers at a time, or {hint.removeprefix('use ')}"
        yield Refusal("DOES_NOT_FIT", _too_large("quantizing", needed, available, given.recipe.target), hint)


def fits_when_served(given: RuleInput) -> Iterator[Refusal]:
    """The weights, and those of a draft, must be in memory at once."""
    needed, available = given.model.serving_memory, given.model.available_memory
    if needed.value > available:
        message = _too_large("serving", needed, available, given.recipe.target)
        yield Refusal("DOES_NOT_FIT", message, _what_fits(given, available))


def reserved_cache_fits(given: RuleInput) -> Iterator[Refusal]:
    """Some runtimes take the cache of every request at its full length when they start."""
    serve, serving = given.recipe.serve, given.model.serving
    if serving is None or not given.runtime.RESERVES_CACHE or serve.max_seq_len is None:
        return
    full = replace(serving, batch=serve.max_batch_size, context=serve.max_seq_len)
    needed = full.weights + full.workspace + full.cache
    if needed > full.available >= serving.weights + serving.workspace + serving.cache:
        message = (
            f"the engine reserves {in_bytes(full.cache)} for {serve.max_batch_size} requests of {serve.max_seq_len:,}"
            f" tokens; with the weights {in_bytes(needed)}, and {given.recipe.target} has {in_bytes(full.available)}"
        )
        yield Refusal("DOES_NOT_FIT", message, "set serve.max_batch_size or serve.max_seq_len lower")


def parallel_as_the_machine(given: RuleInput) -> Iterator[Refusal]:
    """Tensor parallelism takes one GPU per part, and conversion fixes the number of parts of a TensorRT engine."""
    if given.target.gpu is None:
        return
    parts = given.recipe.serve.tensor_parallel_size
    gpus = _gpus(given.target)
    if parts > gpus:
        message = f"serve.tensor_parallel_size is {parts}, but {given.recipe.target} has {gpus} GPU{'s' * (gpus != 1)}"
        larger = [name for name, target in given.targets.items() if _gpus(target) >= parts]
        hint = f"set serve.tensor_parallel_size to {gpus}"
        yield Refusal("TENSOR_PARALLEL", message, f"{hint}, or use target {' or '.join(larger)}" if larger else hint)
    if given.recipe.backend == "tensorrt" and given.recipe.engine.convert.get("tp_size", parts) != parts:
        message = f"engine.convert.tp_size and serve.tensor_parallel_size ({parts}) differ"
        yield Refusal("TENSOR_PARALLEL", message, f"remove engine.convert.tp_size, or set it to {parts}")


def one_node_per_engine(given: RuleInput) -> Iterator[Refusal]:
    """No TensorRT engine that serves from two machines is known."""
    if given.target.nodes > 1 and given.recipe.backend == "tensorrt":
        message = f"no TensorRT engine is known to work over the {given.target.nodes} machines of {given.recipe.target}"
        able = "backend pytorch" if given.runtime.HAS_BACKENDS else "an image of TensorRT-LLM with backend pytorch"
        yield Refusal("MULTI_NODE_UNSUPPORTED", message, f"use {able}, as NVIDIA's playbook for two Sparks does")


def one_machine_per_pod(given: RuleInput) -> Iterator[Refusal]:
    """The pods of a cluster serve from one machine each."""
    if given.target.nodes > 1 and given.recipe.serve.cluster != Cluster():
        message = (
            f"serve.cluster has settings, but the {given.target.nodes} machines of {given.recipe.target} serve "
            f"together, and no files are written for that in a cluster: {PODS_APART}"
        )
        yield Refusal("MULTI_NODE_UNSUPPORTED", message, "leave serve.cluster out: two-sparks/start.sh serves on both")


def _holds(target: Target, given: RuleInput) -> bool:
    """Tell whether a model loads and serves on all GPUs of a target."""
    recipe = given.recipe
    serve = recipe.serve.model_copy(update={"tensor_parallel_size": _gpus(target)})
    spread = recipe.model_copy(update={"serve": serve})
    model = model_on_target(spread, target, given.find, given.model.runtime)
    if model.serving is None:
        return target.usable_memory >= model.serving_memory.value
    found = peaks(model.serving, Preparation())
    return found["load"].fits and found["serve"].fits


def _gpus(target: Target) -> int:
    """Count the GPUs to spread a model over. A rehearsal machine without a GPU counts as one with one."""
    return max(1, target.gpu.count) * target.nodes if target.gpu else 0


def _too_large(what: str, needed: Figure, available: float, target: str) -> str:
    return f"{what} needs at least {needed} ({needed.basis}), and {target} has {in_bytes(available)} for it"


def _what_fits(given: RuleInput, available: float) -> str:
    """Return the most precise format that fits, or the targets that this one fits on."""
    kernels = given.image.formats.get(f"sm_{given.sm}", ()) if given.sm else tuple(BITS)
    besides = given.model.serving_memory.value - given.model.weights.value
    for name in BITS:
        size = weights_in(given.recipe, given.model.known, name)
        usable = name in kernels and name not in {"mxfp4", given.quantization.format}
        if usable and size.value + besides <= available:
            return f"use {in_format(given, name)}: {size}"
    able = {name: target for name, target in given.targets.items() if target.gpu and _spreads(target, given)}
    holding = [name for name, target in able.items() if _holds(target, given)]
    if holding:
        return f"use target {' or '.join(holding)}"
    larger = [f"{count} GPUs like that of {name}" for name, target in able.items() if (count := _least(target, given))]
    machine = f", or a machine with {' or '.join(larger)}" if larger else ""
    return f"no target of the catalogue holds it: use a smaller model{machine}"


def _spreads(target: Target, given: RuleInput) -> bool:
    """Tell whether the runtime serves from all machines of a target, which no TensorRT engine does."""
    return target.nodes == 1 or (given.runtime.SPREADS_OVER_NODES and given.recipe.backend != "tensorrt")


def _least(target: Target, given: RuleInput) -> int | None:
    """Return how many GPUs of a kind hold the model, if a common machine has as many."""
    if target.gpu is None or target.unified_memory or target.nodes > 1:
        return None
    for count in _COUNTS:
        parts = {"gpu": target.gpu.model_copy(update={"count": count})}
        memory = {"memory": target.memory * count, "reserve": target.reserve * count}
        if count > target.gpu.count and _holds(target.model_copy(update=parts | memory), given):
            return count
    return None
