"""Renders Docker Compose files for this machine: the server and its monitoring."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.alerts import alerts
from orchestrator.bundle.targets.dashboard import dashboard
from orchestrator.bundle.targets.dockerfile import HEALTHCHECK
from orchestrator.bundle.targets.environment import SECRETS, from_env_file
from orchestrator.bundle.targets.shutdown import default_shutdown
from orchestrator.bundle.templating import render_compose, render_text, render_yaml, verbatim

_IMAGES = {
    "prometheus": "docker.io/prom/prometheus:v3.5.0"
    "@sha256:63805ebb8d2b3920190daf1cb14a60871b16fd38bed42b857a3182bc621f4996",
    "grafana": "docker.io/grafana/grafana:12.1.1"
    "@sha256:a1701c2180249361737a99a01bc770db39381640e4d631825d38ff4535efa47d",
    "chat": "ghcr.io/open-webui/open-webui:v0.8.5"
    "@sha256:2deb90b0423473d8f97febced2e62b8fd898aa3eb61877bb3aa336370214c258",
}
"""The images of the profiles: a version, and the digest of its index for all processors.

Digests are those that public repositories pin, read on 28 November 2026. Change both together:
`docker buildx imagetools inspect NAME:VERSION` prints the digest.
"""


def files(contents: BundleContents) -> dict[str, str]:
    """Render the Compose files."""
    target = contents.shape.target
    values = {
        "bundle": contents,
        "recipe": contents.recipe,
        "platform": f"linux/{target.architecture}" if target.gpu else None,  # without a GPU: any machine
        "healthcheck": ["CMD", *HEALTHCHECK],
        "passed_variables": from_env_file(contents),
        "shutdown": default_shutdown(contents),
        **_IMAGES,
    }
    grafana = "monitoring/grafana"
    return {
        "compose.yaml": render_compose("compose/compose.yaml.j2", **values),
        ".env.example": render_text("compose/env.example.j2", **values),
        "secrets/README": SECRETS,
        "monitoring/alerts.yml": render_yaml(
            "compose/alerts.yml.j2",
            bundle=contents,
            alerts=alerts(contents.recipe.checks.startup_timeout, contents.runtime.SERVER),
        ),
        "monitoring/prometheus.yml": render_yaml("compose/prometheus.yml.j2", **values),
        f"{grafana}/provisioning/datasources/prometheus.yaml": verbatim("templates/compose/datasource.yaml"),
        f"{grafana}/provisioning/dashboards/server.yaml": verbatim("templates/compose/dashboards.yaml"),
        f"{grafana}/dashboards/server.json": dashboard(contents.recipe.name),
    }
