"""Renders KServe files: a runtime for the cluster and a service that uses it."""

from __future__ import annotations

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.targets.cluster import model_volume, render_all


def files(facts: Facts) -> dict[str, str]:
    """Render runtime and service, and the volume they read."""
    return render_all(facts, "kserve", "kserve", ("runtime.yaml", "inference-service.yaml")) | model_volume(facts)
