"""Renders files for NVIDIA's NIM Operator: a NIMService and its volume."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.cluster import model_volume, render_all


def files(contents: BundleContents) -> dict[str, str]:
    """Render the NIMService, and the volume it reads."""
    return render_all(contents, "nim-operator", "nim_operator", ("nimservice.yaml",)) | model_volume(contents)
