"""Renders the server's image: the TensorRT-LLM image, with the gateway and the bundle's documents."""

from __future__ import annotations

import json
from collections.abc import Mapping

from orchestrator.bundle.facts import CONFIG, Facts
from orchestrator.bundle.gateway.documents import MODEL, SERVE
from orchestrator.bundle.templating import plain_text

CACHE = "/opt/nim/.cache"
"""The folder of compiled kernels, kept between two starts."""
PORT = 8000
"""The gateway's port in its container."""
HEALTH_PORT = 8002
"""The port for health checks only, never with TLS."""
DOCUMENTS = (SERVE, CONFIG, "model_manifest.yaml", "metadata.json", "license.json", "version.json")
_PROBE = (
    "import os, urllib.request as r; url = 'http://127.0.0.1:' + os.environ['NIM_HEALTH_PORT'] + '/v1/health/ready'; "
    "r.build_opener(r.ProxyHandler({})).open(url, timeout=5)"
)
HEALTHCHECK = ("python3", "-c", _PROBE)
"""Checks readiness with Python, because curl may be missing."""
_OCI = "org.opencontainers.image."


def files(facts: Facts) -> dict[str, str]:
    """Render the Dockerfile and its ignore file."""
    values = {
        "facts": facts,
        "labels": _labels(facts),
        "model": str(MODEL),
        "cache": CACHE,
        "port": PORT,
        "health_port": HEALTH_PORT,
        "documents": DOCUMENTS,
        "healthcheck": json.dumps(HEALTHCHECK),
    }
    return {"Dockerfile": plain_text("dockerfile/Dockerfile.j2", **values), ".dockerignore": _ignored(facts)}


def _labels(facts: Facts) -> Mapping[str, str]:
    base = {f"{_OCI}base.name": facts.image.reference}
    if facts.image.digest:
        base[f"{_OCI}base.digest"] = facts.image.digest
    return {
        f"{_OCI}title": facts.recipe.name,
        f"{_OCI}description": facts.recipe.description,
        f"{_OCI}version": facts.version,
        f"{_OCI}revision": facts.digest,
        f"{_OCI}licenses": "Apache-2.0 AND LicenseRef-base-image" + _model_licence(facts),
        **base,
    }


def _model_licence(facts: Facts) -> str:
    return f" AND LicenseRef-{facts.license.name}" if facts.embed_model else ""


def _ignored(facts: Facts) -> str:
    """Exclude everything that the Dockerfile does not copy: secrets, and a model that is not included."""
    model = ["model"] if facts.embed_model else []
    allowed = ["Dockerfile", "gateway/*.py", "start_server.sh", *DOCUMENTS, *model]
    return "*\n" + "".join(f"!{name}\n" for name in allowed)
