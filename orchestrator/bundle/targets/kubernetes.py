"""Renders plain Kubernetes files, with components for keys, monitoring and autoscaling."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.cluster import model_volume, render_all

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
    return render_all(contents, "kubernetes", "kubernetes", _MANIFESTS) | model_volume(contents)
