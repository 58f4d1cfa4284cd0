"""Renders files for NVIDIA's NIM Operator: a NIMService and its volume."""

from __future__ import annotations

from orchestrator.bundle.contents import PORT, BundleContents
from orchestrator.bundle.targets.cluster import model_volume, render_all, render_route
from orchestrator.bundle.targets.route import Backend

_FILES = (
    "NIM_SSL_MODE",
    "NIM_SSL_KEY_PATH",
    "NIM_SSL_CERTS_PATH",
    "NIM_SSL_CERT_PATH",
    "NIM_SSL_CA_CERTS_PATH",
    "NIM_GATEWAY_API_KEYS_FILE",
)
"""Variables that name files besides the model's, of which the operator mounts none."""


def refusal(contents: BundleContents) -> str:
    """Say which variable of the recipe names a file that the operator cannot mount; empty if none does."""
    environment = contents.recipe.serve.environment
    given = [name for name in _FILES if environment.get(name, "").lower() not in {"", "disabled"}]
    if not given:
        return ""
    return (
        f"serve.environment has {' and '.join(given)}, and the operator mounts no files but the model: keys come from "
        f"the Secret {contents.name}-secrets, and TLS ends in front of it (serve.cluster.route)"
    )


def files(contents: BundleContents) -> dict[str, str]:
    """Render the NIMService, and the volume it reads."""
    manifests = render_all(contents, "nim-operator", "nim_operator", ("nimservice.yaml",))
    route = render_route(contents, "nim-operator", Backend(contents.name, PORT))
    return manifests | route | model_volume(contents)
