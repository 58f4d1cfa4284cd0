"""Renders KServe files: a runtime for the cluster and a service that uses it."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.cluster import model_volume, render_all, render_route
from orchestrator.bundle.targets.route import Backend

_PORT = 80
"""The port of the Service that KServe makes for a predictor."""


def files(contents: BundleContents) -> dict[str, str]:
    """Render runtime and service, and the volume they read."""
    manifests = render_all(contents, "kserve", "kserve", ("runtime.yaml", "inference-service.yaml"))
    route = render_route(contents, "kserve", Backend(f"{contents.name}-predictor", _PORT))
    return manifests | route | model_volume(contents)
