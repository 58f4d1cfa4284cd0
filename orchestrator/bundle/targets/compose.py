"""Renders Docker Compose files for this machine: the server and its monitoring."""

from __future__ import annotations

from importlib.resources import files as resources

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.gateway.documents import MODEL
from orchestrator.bundle.targets.dashboard import dashboard
from orchestrator.bundle.targets.dockerfile import CACHE, HEALTHCHECK, PORT
from orchestrator.bundle.templating import compose_text, plain_text, yaml_text

_IMAGES = {
    "prometheus": "docker.io/prom/prometheus:v3.5.0",
    "grafana": "docker.io/grafana/grafana:12.1.1",
    "chat": "ghcr.io/open-webui/open-webui:v0.6.26",
}
PASSED = {
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
Keys and certificates go here; the server's container finds them at /run/secrets, and .env names them: .env.example
shows how. They must be readable for uid 1000. Another build of the bundle keeps this folder.
"""


def files(facts: Facts) -> dict[str, str]:
    """Render the Compose files."""
    target = facts.shape.target
    values = {
        "facts": facts,
        "recipe": facts.recipe,
        "platform": f"linux/{target.architecture}" if target.gpu else None,  # without one, whatever machine this is
        "port": PORT,
        "cache": CACHE,
        "model": str(MODEL),
        "healthcheck": ["CMD", *HEALTHCHECK],
        "passed": PASSED,
        **_IMAGES,
    }
    grafana = "monitoring/grafana"
    return {
        "compose.yaml": compose_text("compose/compose.yaml.j2", **values),
        ".env.example": plain_text("compose/env.example.j2", **values),
        "secrets/README": _SECRETS,
        "monitoring/prometheus.yml": yaml_text("compose/prometheus.yml.j2", **values),
        f"{grafana}/provisioning/datasources/prometheus.yaml": _verbatim("datasource.yaml"),
        f"{grafana}/provisioning/dashboards/server.yaml": _verbatim("dashboards.yaml"),
        f"{grafana}/dashboards/server.json": dashboard(facts.recipe.name),
    }


def _verbatim(name: str) -> str:
    return (resources("orchestrator.bundle") / "templates" / "compose" / name).read_text("utf-8")
