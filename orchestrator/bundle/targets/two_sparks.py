"""Renders files for two DGX Sparks that serve one model with tensor parallelism over their ConnectX-7 link."""

from __future__ import annotations

from orchestrator.bundle.contents import MODEL_FOLDER, BundleContents
from orchestrator.bundle.private_files import PRIVATE
from orchestrator.bundle.targets.environment import SECRETS, from_env_file
from orchestrator.bundle.targets.shutdown import default_shutdown
from orchestrator.bundle.templating import render_compose, render_text, verbatim
from orchestrator.executors.docker_arguments import LABEL

FOLDER = "two-sparks"
BUNDLE_LABEL = f"{LABEL}bundle"
"""The label of both images with the digest of the bundle's files."""
_SSH_PORT = 2233
"""The containers' port for mpirun, because 22 is the machines' own."""
_BUILD_BYTES = 2_000_000_000
"""Docker's disk for layers of our own, their packages, and the build's cache."""
_VERBATIM = ("facts.sh", "weights.sh", "up.sh", "down.sh", "node.sh", "launch.sh")


def files(contents: BundleContents) -> dict[str, str]:
    """Render the scripts that check, start and stop the two."""
    values = {
        "bundle": contents,
        "image": f"{contents.repository}-{FOLDER}:{contents.image_tag}",
        "container": f"{contents.name}-node",
        "ssh_port": _SSH_PORT,
        "passed_variables": from_env_file(contents),
        "shutdown": default_shutdown(contents),
        "private": PRIVATE,
        "label": BUNDLE_LABEL,
        "build_bytes": _BUILD_BYTES + (contents.size if contents.embed_model else 0),
        "memory": int(contents.serving_memory or contents.size / contents.nodes),
    }
    rendered = {
        "start.sh": render_text("two_sparks/start.sh.j2", **values),
        "compose.yaml": render_compose("two_sparks/compose.yaml.j2", **values),
        "Dockerfile": render_text("two_sparks/Dockerfile.j2", **values),
        ".env.example": render_text("two_sparks/env.example.j2", **values),
        ".dockerignore": "*\n!Dockerfile\n!node.sh\n!launch.sh\n",
    }
    rendered |= {name: verbatim(f"templates/two_sparks/{name}") for name in _VERBATIM}
    rendered["sizes"] = "".join(
        f"{file.size} {MODEL_FOLDER}/{path}\n" for path, file in sorted(contents.model_files.items())
    )
    return {"secrets/README": SECRETS, **{f"{FOLDER}/{name}": text for name, text in rendered.items()}}
