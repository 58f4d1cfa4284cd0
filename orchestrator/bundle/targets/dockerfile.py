"""Renders the server's image: the runtime's image, with the gateway and the bundle's documents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal

from orchestrator.bundle.contents import MODEL_FOLDER, BundleContents
from orchestrator.bundle.gateway.documents import SERVE
from orchestrator.bundle.templating import render_text

START = "/opt/nim/start_server.sh"
_PATTERN = re.compile(r"[*?\[\\]")
"""Characters that are patterns in `.dockerignore`. Not every reader of it can quote them; `?` is any character."""
_OCI = "org.opencontainers.image."


def health_probe(kind: Literal["live", "ready"]) -> tuple[str, ...]:
    """Return a command that asks the gateway in its container, with Python, because curl may be missing."""
    code = (
        "import os, urllib.request as r; "
        f"url = 'http://127.0.0.1:' + os.environ['NIM_HEALTH_PORT'] + '/v1/health/{kind}'; "
        "r.build_opener(r.ProxyHandler({})).open(url, timeout=5)"
    )
    return ("python3", "-c", code)


HEALTHCHECK = health_probe("ready")


def documents(contents: BundleContents) -> tuple[str, ...]:
    """Name the files that the gateway reads."""
    config = contents.runtime.CONFIG
    own = (config,) if config else ()
    return (SERVE, *own, "model_manifest.yaml", "metadata.json", "license.json", "version.json")


def files(contents: BundleContents) -> dict[str, str]:
    """Render the Dockerfile and its ignore file."""
    values = {
        "bundle": contents,
        "labels": _labels(contents),
        "documents": documents(contents),
        "healthcheck": json.dumps(HEALTHCHECK),
        "entrypoint": json.dumps([*(contents.shape.image.entrypoint or ()), START]),
    }
    return {"Dockerfile": render_text("dockerfile/Dockerfile.j2", **values), ".dockerignore": _ignored(contents)}


def _labels(contents: BundleContents) -> Mapping[str, str]:
    base = {f"{_OCI}base.name": contents.image.reference}
    if contents.image.digest:
        base[f"{_OCI}base.digest"] = contents.image.digest
    return {
        f"{_OCI}title": contents.recipe.name,
        f"{_OCI}description": contents.recipe.description,
        f"{_OCI}version": contents.version,
        f"{_OCI}revision": contents.digest,
        f"{_OCI}licenses": "Apache-2.0 AND LicenseRef-base-image" + _model_licence(contents),
        **base,
    }


def _model_licence(contents: BundleContents) -> str:
    return f" AND LicenseRef-{contents.license.name}" if contents.embed_model else ""


def _ignored(contents: BundleContents) -> str:
    """Exclude everything that the Dockerfile does not copy: secrets, and unlisted files in the model's folder."""
    model = [f"{MODEL_FOLDER}/{name}" for name in sorted(contents.model_files)] if contents.embed_model else []
    named = [_PATTERN.sub("?", name) for name in ("Dockerfile", "start_server.sh", *documents(contents), *model)]
    return "*\n" + "".join(f"!{pattern}\n" for pattern in ("gateway/*.py", *named))
