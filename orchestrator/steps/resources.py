"""What a step that walks over the layers of a model may use."""

from __future__ import annotations

from orchestrator.recipe.model import Resources


def limits(resources: Resources) -> dict[str, str]:
    """Tell a payload, by its variables, what it may use; none of it changes a byte."""
    told = {"THREADS": resources.threads, "MEMORY": resources.memory and int(resources.memory)}
    found = {f"ORCHESTRATOR_{name}": str(value) for name, value in told.items() if value is not None}
    return found | ({"ORCHESTRATOR_SPILL": "1"} if resources.spill else {})
