"""Renders plain Kubernetes files, with components for keys, monitoring and autoscaling."""

from __future__ import annotations

from orchestrator.bundle.contents import PORT, BundleContents
from orchestrator.bundle.targets.cluster import model_volume, render_all, render_route
from orchestrator.bundle.targets.route import Backend

_MANIFESTS = (
    "kustomization.yaml",
    "deployment.yaml",
    "service.yaml",
    "network-policy.yaml",
    "pod-disruption-budget.yaml",
    "components/monitoring/kustomization.yaml",
    "components/monitoring/service-monitor.yaml",
    "components/monitoring/network-policy.yaml",
    "components/monitoring/prometheus-rule.yaml",
    "components/autoscaling/kustomization.yaml",
    "components/autoscaling/horizontal-pod-autoscaler.yaml",
    "components/autoscaling/prometheus-adapter-values.yaml",
)


def files(contents: BundleContents) -> dict[str, str]:
    """Render a kustomization of the server, and the volume it reads."""
    manifests = render_all(contents, "kubernetes", "kubernetes", _MANIFESTS)
    route = render_route(contents, "kubernetes", Backend(contents.name, PORT))
    return manifests | route | model_volume(contents)
