"""Renders Docker Compose files for this machine: the server and its monitoring."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.dashboard import dashboard
from orchestrator.bundle.targets.dockerfile import HEALTHCHECK
from orchestrator.bundle.templating import render_compose, render_text, render_yaml, verbatim

_IMAGES = {
    "prometheus": "docker.io/prom/prometheus:v3.5.0",
    "grafana": "docker.io/grafana/grafana:12.1.1",
    "chat": "ghcr.io/open-webui/open-webui:v0.6.26",
}
PASSED_VARIABLES = {
    "NIM_SERVED_MODEL_NAME": "",
    "NIM_MAX_MODEL_LEN": "",
    "NIM_KVCACHE_PERCENT": "",
    "NIM_PASSTHROUGH_ARGS": "",
    "NIM_GATEWAY_API_KEYS_FILE": "",
    "NIM_GATEWAY_MAX_CONCURRENT_REQUESTS": "",
    "NIM_GATEWAY_REQUESTS_PER_MINUTE": "",
    "NIM_CORS_ALLOW_ORIGINS": "",
    "NIM_SSL_MODE": "",
    "NIM_SSL_KEY_PATH": "",
    "NIM_SSL_CERTS_PATH": "",
    "NIM_SSL_CA_CERTS_PATH": "",
    "NIM_LOG_LEVEL": "INFO",
    "NIM_JSONL_LOGGING": "0",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
}
"""The variables that `.env` passes to the server, with their defaults."""
_SECRETS = """\
Put keys and certificates here. The server's container has them in /run/secrets, and .env names them: see .env.example.
They must be readable for uid 1000. Another build of the bundle keeps this folder.
"""


def files(contents: BundleContents) -> dict[str, str]:
    """Render the Compose files."""
    target = contents.shape.target
    values = {
        "bundle": contents,
        "recipe": contents.recipe,
        "platform": f"linux/{target.architecture}" if target.gpu else None,  # without a GPU: any machine
        "healthcheck": ["CMD", *HEALTHCHECK],
        "passed_variables": PASSED_VARIABLES,
        **_IMAGES,
    }
    grafana = "monitoring/grafana"
    return {
        "compose.yaml": render_compose("compose/compose.yaml.j2", **values),
        ".env.example": render_text("compose/env.example.j2", **values),
        "secrets/README": _SECRETS,
        "monitoring/prometheus.yml": render_yaml("compose/prometheus.yml.j2", **values),
        f"{grafana}/provisioning/datasources/prometheus.yaml": verbatim("templates/compose/datasource.yaml"),
        f"{grafana}/provisioning/dashboards/server.yaml": verbatim("templates/compose/dashboards.yaml"),
        f"{grafana}/dashboards/server.json": dashboard(contents.recipe.name),
    }
