"""Renders the common parts of Kubernetes deployments: sizes, labels, and the volume with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.bundle.facts import MODEL_FOLDER, Facts
from orchestrator.bundle.gateway.documents import MODEL
from orchestrator.bundle.targets.dockerfile import CACHE, HEALTH_PORT, PORT
from orchestrator.bundle.templating import plain_text, yaml_text

_PROBE_SECONDS = 10
_GIB = 2**30
_SHARED_GIB = 16
"""Size of /dev/shm, as NIM's documentation requires. It takes memory only when it is used."""
_HOST_GIB = 16
"""Memory of a server besides its weights: Python, compiled kernels, buffers."""
_READ_AHEAD = 1.25
"""The page cache of read files counts as the container's memory, too, until the system needs it."""
_MOST_SCALE_DOWN = 3600
"""Seconds; the most that an autoscaler accepts."""


@dataclass(frozen=True)
class Sizes:
    """The resources of a server in a cluster, in Kubernetes' units."""

    volume: str
    shared_memory: str
    resources: Mapping[str, Mapping[str, str | int]]
    startup_attempts: int
    """Number of failed readiness checks before the start counts as failed."""
    scale_down_seconds: int


def one_machine(facts: Facts) -> bool:
    """Tell whether one machine serves. Several need a launcher besides a container on each."""
    return facts.nodes == 1


def sizes_of(facts: Facts) -> Sizes:
    """Calculate the resources to request."""
    weights = facts.size / _GIB
    memory = math.ceil(weights * _READ_AHEAD) + _SHARED_GIB + _HOST_GIB
    timeout = facts.recipe.checks.startup_timeout
    return Sizes(
        volume=f"{math.ceil(weights * 1.05) + 1}Gi",
        shared_memory=f"{_SHARED_GIB}Gi",
        resources={
            "requests": {"cpu": "2", "memory": f"{_HOST_GIB}Gi"},
            "limits": {"cpu": "16", "memory": f"{memory}Gi", "nvidia.com/gpu": facts.gpus},
        },
        startup_attempts=math.ceil(timeout / _PROBE_SECONDS),
        scale_down_seconds=min(timeout, _MOST_SCALE_DOWN),
    )


def values_of(facts: Facts) -> dict[str, object]:
    """Return the variables of the templates of all these deployments."""
    selector = {"app.kubernetes.io/name": facts.name}
    return {
        "facts": facts,
        "sizes": sizes_of(facts),
        "selector": selector,
        "labels": {**selector, "app.kubernetes.io/version": facts.tag, "app.kubernetes.io/component": "model-server"},
        "volume_labels": {
            "app.kubernetes.io/name": f"{facts.name}-model",
            "app.kubernetes.io/part-of": facts.name,
            "app.kubernetes.io/component": "model-loader",
        },
        "job": f"{facts.name}-loader-{facts.tag}",
        "contained": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "model": str(MODEL),
        "cache": CACHE,
        "port": PORT,
        "health_port": HEALTH_PORT,
        "waiting": str(max(1, facts.recipe.serve.max_batch_size // 2)),
        "model_format": f"tensorrt-llm-{'engine' if facts.engine_config else 'checkpoint'}",
    }


def render_all(facts: Facts, folder: str, templates: str, names: tuple[str, ...]) -> dict[str, str]:
    """Render YAML templates into a folder of the bundle.

    Args:
        facts: What is known of the build.
        folder: Their folder in the bundle.
        templates: The folder of their templates.
        names: Their names, relative to both.
    """
    values = values_of(facts)
    return {f"{folder}/{name}": yaml_text(f"{templates}/{name}.j2", **values) for name in names}


def model_volume(facts: Facts) -> dict[str, str]:
    """Render the volume with the model and its loader; nothing if the image includes the model."""
    if facts.embed_model:
        return {}
    sums = "".join(f"{file.sha256}  {path}\n" for path, file in sorted(facts.model_files.items()))
    size = f"{facts.size / 1e9:.1f} GB"
    script = plain_text("model_volume/load-model.sh.j2", **values_of(facts), folder=MODEL_FOLDER, size=size)
    names = ("kustomization.yaml", "volume.yaml", "loader.yaml", "network-policy.yaml")
    manifests = render_all(facts, "model-volume", "model_volume", names)
    return {"model-volume/SHA256SUMS": sums, "model-volume/load-model.sh": script, **manifests}
