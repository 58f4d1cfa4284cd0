"""Calculates the disk space that each step keeps, and the space that it needs only while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.planner.figures import Figure
from orchestrator.planner.known import Known, known_model
from orchestrator.planner.weights import draft_bytes, served_weights, source_weights
from orchestrator.recipe.model import Calibration, GeneratedModel, HeldOut, HubModel, Recipe

_NOTES = 2
"""New hidden states are written before the old ones are removed."""
_STATE_BYTES = 2
"""Bytes of one hidden value: a model computes in BF16."""


@dataclass(frozen=True)
class StepDisk:
    """The disk space of one step."""

    step: str
    what: str
    """Name of the result."""
    left: Figure
    """Bytes of its result."""


def disk_of_steps(recipe: Recipe) -> tuple[StepDisk, ...]:
    """Calculate the result of each step in the order of the run. Steps that write kilobytes are left out."""
    weights = served_weights(recipe)
    found = [StepDisk(_model_step(recipe), "download", source_weights(recipe))]
    draft = draft_bytes(recipe)
    if draft is not None:
        found.append(StepDisk("download-draft", "draft", draft))
    if recipe.quantization.method != "none":
        found.append(StepDisk("quantize", "quantized checkpoint", weights))
    if recipe.backend == "tensorrt":
        if recipe.quantization.method != "trtllm":
            found.append(StepDisk("convert", "converted checkpoint", weights))
        found.append(StepDisk("engine", "engine", weights))
    return tuple(found)


def notes_of_steps(recipe: Recipe) -> Mapping[str, Figure]:
    """Calculate the saved state of resumable steps. It is removed when the result exists."""
    known, quantization, held_out = known_model(recipe), recipe.quantization, recipe.checks.held_out
    if known is None:
        return {}
    found = {}
    if quantization.method == "onepass":
        found["quantize"] = _notes(known, quantization.calibration, models=1)
    if held_out is not None:
        found["evaluate"] = _notes(known, held_out, models=2)
    return found


def _notes(known: Known, text: Calibration | HeldOut, models: int) -> Figure:
    values = models * text.samples * text.sequence_length * known.shape.hidden_size
    basis = f"hidden states of {text.samples} samples of {text.sequence_length} tokens, twice while they are replaced"
    return Figure(_NOTES * _STATE_BYTES * values, "B", f"{basis}, of both models" if models > 1 else basis)


def _model_step(recipe: Recipe) -> str:
    if isinstance(recipe.model, HubModel):
        return "download"
    return "generate" if isinstance(recipe.model, GeneratedModel) else "import"
