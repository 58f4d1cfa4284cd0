"""Renders a Helm chart. Only Chart.yaml and values.yaml differ between two builds."""

from __future__ import annotations

from importlib.resources import files as resources

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.targets.cluster import model_volume, render_all


def files(facts: Facts) -> dict[str, str]:
    """Render the chart, values for NVIDIA's own chart, and the volume they read."""
    source = resources("orchestrator.bundle") / "templates" / "helm"
    chart = {
        f"helm/templates/{template.name}": template.read_text(encoding="utf-8")
        for template in (source / "templates").iterdir()
    }
    chart["helm/values.schema.json"] = (source / "values.schema.json").read_text(encoding="utf-8")
    chart["helm/.helmignore"] = (source / "helmignore").read_text(encoding="utf-8")
    rendered = render_all(facts, "helm", "helm", ("Chart.yaml", "values.yaml", "nim-llm-values.yaml"))
    return chart | rendered | model_volume(facts)
