"""Renders files for two DGX Sparks that serve one model with tensor parallelism over their ConnectX-7 link."""

from __future__ import annotations

from importlib.resources import files as resources

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.gateway.documents import MODEL
from orchestrator.bundle.targets.compose import PASSED
from orchestrator.bundle.targets.dockerfile import CACHE, HEALTH_PORT
from orchestrator.bundle.templating import compose_text, plain_text

FOLDER = "two-sparks"
_SSH_PORT = 2233
"""The containers' port for mpirun, because 22 is the machines' own."""
_VERBATIM = ("up.sh", "down.sh", "node.sh", "launch.sh")


def two_machines(facts: Facts) -> bool:
    """Tell whether exactly two machines serve."""
    return facts.nodes == 2  # noqa: PLR2004 - it is the name of the path


def files(facts: Facts) -> dict[str, str]:
    """Render the scripts that check, start and stop the two."""
    values = {
        "facts": facts,
        "image": f"{facts.recipe.name}-{FOLDER}:{facts.tag}",
        "container": f"{facts.name}-node",
        "ssh_port": _SSH_PORT,
        "health_port": HEALTH_PORT,
        "cache": CACHE,
        "model": str(MODEL),
        "passed": PASSED,
    }
    rendered = {
        "start.sh": plain_text("two_sparks/start.sh.j2", **values),
        "compose.yaml": compose_text("two_sparks/compose.yaml.j2", **values),
        "Dockerfile": plain_text("two_sparks/Dockerfile.j2", **values),
        ".env.example": plain_text("two_sparks/env.example.j2", **values),
        ".dockerignore": "*\n!Dockerfile\n!node.sh\n!launch.sh\n",
    }
    folder = resources("orchestrator.bundle") / "templates" / "two_sparks"
    rendered |= {name: (folder / name).read_text("utf-8") for name in _VERBATIM}
    return {f"{FOLDER}/{name}": text for name, text in rendered.items()}
