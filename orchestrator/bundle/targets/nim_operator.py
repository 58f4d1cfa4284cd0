"""Renders files for NVIDIA's NIM Operator: a NIMService and its volume."""

from __future__ import annotations

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.targets.cluster import model_volume, render_all


def files(facts: Facts) -> dict[str, str]:
    """Render the NIMService, and the volume it reads."""
    return render_all(facts, "nim-operator", "nim_operator", ("nimservice.yaml",)) | model_volume(facts)
