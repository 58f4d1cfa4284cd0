"""Calculates the disk space that each step's result keeps, and the space that it needs only while it runs."""

from __future__ import annotations

from orchestrator.planner.figures import Figure
from orchestrator.planner.known import Known
from orchestrator.planner.model_on_target import ModelOnTarget
from orchestrator.planner.preparation import calibrates
from orchestrator.quantization.candidates import compared
from orchestrator.recipe.model import Calibration, GeneratedModel, HeldOut, HubModel
from orchestrator.serving.runtimes import runtime_with_costs
from orchestrator.values import frozen

_COPIES = 2
"""New hidden states are written before the old ones are removed."""
_COUNTED = {2: "both"}
TRIAL = "saved state, until it ends"
_STATE_BYTES = 2
"""Bytes of one hidden value: a model computes in BF16."""


@frozen
class StepDisk:
    """The disk space of one step."""

    step: str
    what: str
    """What it writes."""
    result: Figure | None
    """Bytes of its result; None for kilobytes."""
    state: Figure | None = None
    """Bytes of its saved state, which is removed when the result exists; None if it saves none."""

    @property
    def most(self) -> int:
        """Bytes while it runs."""
        return sum(int(part.value) for part in (self.result, self.state) if part)


def disk_of_steps(model: ModelOnTarget) -> tuple[StepDisk, ...]:
    """Calculate what each step writes, in the order of the run. Steps that write only kilobytes are left out."""
    recipe, known, weights = model.recipe, model.known, model.weights
    quantization, held_out = recipe.quantization, recipe.checks.held_out
    step = model_step(model)
    found = [StepDisk(step, "download" if step == "download" else "model", model.source)]
    if model.draft is not None:
        found.append(StepDisk("download-draft", "draft", model.draft))
    if quantization.method != "none":
        onepass = quantization.method == "onepass"
        runs_model = known is not None and onepass and calibrates(known.served, quantization.choices)
        state = saved_state(known, quantization.calibration, models=1) if known and runs_model else None
        if state is not None and quantization.rounding == "gptq":
            state = Figure(state.value + weights.value, "B", f"{state.basis}, and the rounded weights")
        found.append(StepDisk("quantize", "quantized checkpoint", weights, state))
    if held_out is not None and known is not None:
        found.append(StepDisk("evaluate", "saved state, until it ends", None, saved_state(known, held_out, models=2)))
    if held_out is not None and known is not None and (ways := compared(recipe)):
        runs = calibrates(known.served, quantization.choices)
        state = trial_state(known, held_out, quantization.calibration if runs else None, len(ways))
        found.append(StepDisk("candidates", TRIAL, None, state))
    if recipe.backend == "tensorrt":
        runtime = runtime_with_costs(model.runtime)
        if quantization.method != "trtllm" and (runtime is None or runtime.CONVERTS):
            found.append(StepDisk("convert", "converted checkpoint", weights))
        found.append(StepDisk("engine", "engine", weights))
    return tuple(found)


def trial_state(known: Known, text: HeldOut, calibration: Calibration | None, ways: int) -> Figure:
    """Calculate the saved hidden states of comparing ways to quantize: of the original, of each, and of calibration."""
    states = [saved_state(known, text, ways + 1)]
    states += [saved_state(known, calibration, 1)] if calibration else []
    return Figure(sum(state.value for state in states), "B", "; ".join(state.basis for state in states))


def saved_state(known: Known, text: Calibration | HeldOut, models: int) -> Figure:
    """Calculate the saved hidden states of a text in a number of models."""
    values = models * text.samples * text.sequence_length * known.shape.hidden_size
    basis = f"hidden states of {text.samples} samples of {text.sequence_length} tokens, twice while they are replaced"
    return Figure(
        _COPIES * _STATE_BYTES * values,
        "B",
        f"{basis}, of {_COUNTED.get(models, models)} models" if models > 1 else basis,
    )


def model_step(model: ModelOnTarget) -> str:
    """Name the step that brings the model."""
    match model.recipe.model:
        case HubModel():
            return "download"
        case GeneratedModel():
            return "generate"
        case _:
            return "import"
