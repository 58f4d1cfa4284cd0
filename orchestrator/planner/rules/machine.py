"""Rules about the machine: its processor, its memory, its GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.catalog.target import Target
from orchestrator.errors import Refusal
from orchestrator.planner.asking import question_of
from orchestrator.planner.case import Case
from orchestrator.planner.figures import Figure, gigabytes
from orchestrator.planner.known import known_model
from orchestrator.planner.making import build_capacity, quantize_memory
from orchestrator.planner.memory import serve_capacity, serve_memory
from orchestrator.planner.phases import peaks
from orchestrator.planner.weights import BITS, weights_in
from orchestrator.quantization import offered
from orchestrator.quantization.architectures import ARCHITECTURES
from orchestrator.recipe.model import Recipe


def built_for_the_processor(case: Case) -> Iterator[Refusal]:
    """An image runs on the processors it was built for. Without containers, none is needed."""
    if case.target.gpu is None:
        return
    wanted = case.target.architecture
    named = {case.recipe.image: case.image, case.quantizer_name: case.quantizer}
    for name, image in named.items():
        if wanted not in image.architectures:
            message = f"image {name} is built for {', '.join(image.architectures)}; {case.recipe.target} is {wanted}"
            fitting = [other for other in case.images if _can_replace(case, name, other)]
            yield Refusal("ARCHITECTURE_MISMATCH", message, f"images for {wanted}: {', '.join(fitting)}")


def _can_replace(case: Case, name: str, other: str) -> bool:
    ours, theirs = case.images[name], case.images[other]
    return case.target.architecture in theirs.architectures and ours.tools.keys() <= theirs.tools.keys()


def fits_when_quantized(case: Case) -> Iterator[Refusal]:
    """The calibrating tools hold the whole model in the memory of one node."""
    needed = quantize_memory(case.recipe)
    room = build_capacity(case.target)
    if needed is not None and needed.value > room:
        hint = "use NVIDIA's quantized checkpoint with method none, where there is one"
        if case.quantization.format in offered.FORMATS and case.recipe.model.architecture in ARCHITECTURES:
            hint = f"use method onepass, which holds few layers at a time, or {hint.removeprefix('use ')}"
        yield Refusal("DOES_NOT_FIT", _too_large("quantizing", needed, room, case.recipe.target), hint)


def fits_when_served(case: Case) -> Iterator[Refusal]:
    """The weights, and those of a draft, must be in memory at once."""
    needed = serve_memory(case.recipe, case.target)
    room = serve_capacity(case.recipe, case.target)
    if needed.value > room:
        message = _too_large("serving", needed, room, case.recipe.target)
        yield Refusal("DOES_NOT_FIT", message, _what_fits(case, room))


def parallel_as_the_machine(case: Case) -> Iterator[Refusal]:
    """Tensor parallelism takes one GPU per part, and conversion fixes the number of parts of a TensorRT engine."""
    if case.target.gpu is None:
        return
    parts = case.recipe.serve.tensor_parallel_size
    gpus = _gpus(case.target)
    if parts > gpus:
        message = f"serve.tensor_parallel_size is {parts}, but {case.recipe.target} has {gpus} GPU{'s' * (gpus != 1)}"
        larger = [name for name, target in case.targets.items() if _gpus(target) >= parts]
        hint = f"set serve.tensor_parallel_size to {gpus}"
        yield Refusal("TENSOR_PARALLEL", message, f"{hint}, or use target {' or '.join(larger)}" if larger else hint)
    if case.recipe.backend == "tensorrt" and case.recipe.engine.convert.get("tp_size", parts) != parts:
        message = f"engine.convert.tp_size and serve.tensor_parallel_size ({parts}) differ"
        yield Refusal("TENSOR_PARALLEL", message, f"remove engine.convert.tp_size, or set it to {parts}")


def one_node_per_engine(case: Case) -> Iterator[Refusal]:
    """No TensorRT engine that serves from two machines is known."""
    if case.target.nodes > 1 and case.recipe.backend == "tensorrt":
        message = f"an engine over the {case.target.nodes} machines of {case.recipe.target} is not known to work"
        yield Refusal(
            "MULTI_NODE_UNSUPPORTED", message, "use backend pytorch, as NVIDIA's playbook for two Sparks does"
        )


def _holds(target: Target, recipe: Recipe) -> bool:
    """Tell whether a model loads and serves on all GPUs of a target."""
    serve = recipe.serve.model_copy(update={"tensor_parallel_size": _gpus(target)})
    spread = recipe.model_copy(update={"serve": serve})
    known = known_model(spread)
    if known is None:
        return target.usable_memory >= serve_memory(spread, target).value
    found = peaks(question_of(spread, known, target))
    return found["load"].fits and found["serve"].fits


def _gpus(target: Target) -> int:
    """Count the GPUs to spread a model over. A rehearsal machine without a GPU counts as one with one."""
    return max(1, target.gpu.count) * target.nodes if target.gpu else 0


def _too_large(what: str, needed: Figure, room: float, target: str) -> str:
    return f"{what} needs at least {needed} ({needed.basis}), and {target} has {gigabytes(room)} for it"


def _what_fits(case: Case, room: float) -> str:
    """Return the most precise format that fits, or the targets that this one fits on."""
    kernels = case.image.formats.get(f"sm_{case.sm}", ()) if case.sm else tuple(BITS)
    for name in BITS:
        if name in kernels and name != "mxfp4" and weights_in(case.recipe, name).value <= room:
            return f"use format {name}: {weights_in(case.recipe, name)}"
    holding = [name for name, target in case.targets.items() if target.gpu and _holds(target, case.recipe)]
    return (
        f"use target {' or '.join(holding)}" if holding else "no target of the catalogue holds it: use a smaller model"
    )
