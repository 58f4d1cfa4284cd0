"""Calculates the memory, disk space and time of comparing ways to quantize a model in one walk over its weights."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import Refusal
from orchestrator.planner import duration
from orchestrator.planner.bytes import input_pairs, input_products, largest_layer
from orchestrator.planner.disk import TRIAL, StepDisk, trial_state
from orchestrator.planner.duration import Span
from orchestrator.planner.known import Known
from orchestrator.planner.model_on_target import ModelOnTarget
from orchestrator.planner.phases import Peak
from orchestrator.planner.preparation import ENCODED, ONEPASS_BYTES, calibrates
from orchestrator.planner.serving import memory_per_node
from orchestrator.quantization.candidates import Candidate
from orchestrator.quantization.format_names import LOCAL_HESSIAN
from orchestrator.recipe.model import HeldOut
from orchestrator.units import in_bytes
from orchestrator.values import frozen

_LAYERS = 4
"""The original's as it is read and as it runs, a candidate's as it is stored and as it is multiplied."""


@frozen
class TrialCost:
    """What a comparison takes."""

    memory: Peak
    disk: StepDisk | None
    """Its saved state; None if the model's sizes are not known."""
    time: Span | None
    """None if it is not known."""

    def refusals(self, target: str) -> tuple[Refusal, ...]:
        """Refuse it if it does not fit although the hidden states are in a file."""
        if self.memory.may_fit:
            return ()
        least, available = in_bytes(self.memory.least or self.memory.total), in_bytes(self.memory.available)
        message = f"comparing needs at least {least} ({self.memory.basis}), and {target} has {available} for it"
        return (Refusal("DOES_NOT_FIT", message, "try fewer ways at once, and those with +gptq apart or not at all"),)


def trial_cost(model: ModelOnTarget, candidates: Sequence[Candidate], held_out: HeldOut) -> TrialCost:
    """Calculate a comparison.

    Args:
        model: The model of a recipe that has the values of the most demanding candidate.
        candidates: What is compared.
        held_out: The recipe's text for it.
    """
    known, available = model.known, memory_per_node(model.target)
    if known is None:
        basis = "assumed for one layer at a time, because the model's sizes are not known; large layers add"
        return TrialCost(Peak({"the tool's whole need": ONEPASS_BYTES}, available, "assumed", basis), None, None)
    quantization = model.recipe.quantization
    runs = calibrates(known.served, quantization.choices)
    disk = trial_state(known, held_out, quantization.calibration if runs else None, len(candidates))
    flowing = disk.value / 2  # a saved state is there twice while it is replaced
    memory = _memory(known, candidates, flowing, available)
    time = _time(model, known, candidates, held_out) if runs else None
    return TrialCost(memory, StepDisk("candidates", TRIAL, None, disk), time)


def _memory(known: Known, candidates: Sequence[Candidate], flowing: float, available: float) -> Peak:
    layer, compensating = largest_layer(known.shape), sum("gptq" in one.besides for one in candidates)
    products = input_products(known.shape) + ENCODED * layer * compensating if compensating else 0
    basis = (
        f"{_LAYERS} layers of {in_bytes(layer)}, {in_bytes(flowing)} of hidden states of calibration, the original and"
        f" {len(candidates)} candidates, which a file takes if memory is too small, and 2 GiB assumed for the rest"
    )
    if products:
        basis += f"; gptq: {in_bytes(products)} for the products of every two inputs and the rounded weights"
    if any(one.search == LOCAL_HESSIAN for one in candidates):
        products += input_pairs(known.shape)
        basis += f"; local_hessian: {in_bytes(input_pairs(known.shape))} for the products of inputs within blocks"
    least = ONEPASS_BYTES + _LAYERS * layer + products
    return Peak({"the tool's whole need": least + flowing}, available, "formula", basis, least)


def _time(model: ModelOnTarget, known: Known, candidates: Sequence[Candidate], held_out: HeldOut) -> Span | None:
    """Add up: calibrating while the weights are read, each search, GPTQ's rounding, and the runs over held-out text."""
    shape, target, calibration = known.shape, model.target, model.recipe.quantization.calibration
    found = duration.calibrating(model.source.value, 0, shape, calibration, target)
    weights = sum(tensor.elements for tensor in shape.tensors if tensor.quantizable)
    parts = [duration.searching(weights, one.search, one.values["rounding"], None) for one in candidates]
    parts += [duration.rounding(shape, calibration, target) for one in candidates if "gptq" in one.besides]
    parts.append(duration.comparing(0, shape, held_out, target, models=len(candidates) + 1, groups=0))
    for part in parts:
        found = found.plus(part) if found and part else found
    return found
