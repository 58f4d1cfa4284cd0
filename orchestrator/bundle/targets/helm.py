"""Renders a Helm chart. Only Chart.yaml and values.yaml differ between two builds."""

from __future__ import annotations

from importlib.resources import files as resources

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.cluster import model_volume, render_all
from orchestrator.bundle.templating import verbatim


def files(contents: BundleContents) -> dict[str, str]:
    """Render the chart, values for NVIDIA's own chart, and the volume they read."""
    source = resources("orchestrator.bundle") / "templates" / "helm"
    chart = {
        f"helm/templates/{template.name}": template.read_text(encoding="utf-8")
        for template in (source / "templates").iterdir()
    }
    chart["helm/values.schema.json"] = verbatim("templates/helm/values.schema.json")
    chart["helm/.helmignore"] = verbatim("templates/helm/helmignore")
    rendered = render_all(contents, "helm", "helm", ("Chart.yaml", "values.yaml", "nim-llm-values.yaml"))
    return chart | rendered | model_volume(contents)
