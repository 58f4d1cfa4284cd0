"""Sets the resources of a step that runs through a model's layers."""

from __future__ import annotations

from orchestrator.recipe.model import Resources


def limits(resources: Resources) -> dict[str, str]:
    """Return the variables that tell a payload its resources. None of them changes a byte."""
    told = {"THREADS": resources.threads, "MEMORY": resources.memory and int(resources.memory)}
    found = {f"ORCHESTRATOR_{name}": str(value) for name, value in told.items() if value is not None}
    return found | ({"ORCHESTRATOR_SPILL": "1"} if resources.spill else {})
