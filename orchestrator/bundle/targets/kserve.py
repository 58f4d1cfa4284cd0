"""Renders KServe files: a runtime for the cluster and a service that uses it."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.cluster import model_volume, render_all


def files(contents: BundleContents) -> dict[str, str]:
    """Render runtime and service, and the volume they read."""
    return render_all(contents, "kserve", "kserve", ("runtime.yaml", "inference-service.yaml")) | model_volume(contents)
