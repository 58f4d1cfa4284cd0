"""Renders the common parts of Kubernetes deployments: sizes, labels, and the volume with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from orchestrator.bundle.contents import MODEL_FOLDER, BundleContents
from orchestrator.bundle.files import sums_text
from orchestrator.bundle.targets.alerts import alerts
from orchestrator.bundle.targets.environment import API_KEYS, fixed, from_env_file
from orchestrator.bundle.targets.route import Backend, ingress_annotations, route_file
from orchestrator.bundle.targets.shutdown import long_shutdown, shutdown_within
from orchestrator.bundle.templating import render_text, render_yaml
from orchestrator.recipe.model import GatewayRoute, IngressRoute
from orchestrator.values import frozen

ROUTE = "route.yaml"
"""How clients outside the cluster reach a server."""
_PROBE_SECONDS = 10
_GIB = 2**30
_SHARED_GIB = 16
"""Size of /dev/shm, as NIM's documentation requires. It takes memory only when it is used."""
_HOST_GIB = 16
"""Memory of a server besides its weights: Python, compiled kernels, buffers."""
_READ_AHEAD = 1.25
"""The page cache of read files counts as the container's memory, too, until the system needs it."""
_POD_GRACE = 30
"""Seconds that Kubernetes gives a pod to end, where the NIM Operator and the chart nim-llm set no others."""
_MOST_REPLICAS = 4
"""To which an autoscaler goes."""
_MAX_SCALE_DOWN = 3600
"""Seconds; the most that an autoscaler accepts."""


@frozen
class Sizes:
    """The resources of a server in a cluster, in Kubernetes' units."""

    volume: str
    shared_memory: str
    resources: Mapping[str, Mapping[str, str | int]]
    startup_attempts: int
    """Number of failed readiness checks before the start counts as failed."""
    scale_down_seconds: int


def sizes_of(contents: BundleContents) -> Sizes:
    """Calculate the resources to request."""
    weights = contents.size / _GIB
    memory = math.ceil(weights * _READ_AHEAD) + _SHARED_GIB + _HOST_GIB
    timeout = contents.recipe.checks.startup_timeout
    return Sizes(
        volume=f"{math.ceil(weights * 1.05) + 1}Gi",
        shared_memory=f"{_SHARED_GIB}Gi",
        resources={
            "requests": {"cpu": "2", "memory": f"{_HOST_GIB}Gi"},
            "limits": {"cpu": "16", "memory": f"{memory}Gi", "nvidia.com/gpu": contents.gpus},
        },
        startup_attempts=math.ceil(timeout / _PROBE_SECONDS),
        scale_down_seconds=min(timeout, _MAX_SCALE_DOWN),
    )


def values_of(contents: BundleContents) -> dict[str, object]:
    """Return the variables of the templates of all these deployments."""
    shutdown, route = long_shutdown(contents), contents.recipe.serve.cluster.route
    selector = {"app.kubernetes.io/name": contents.name}
    return {
        "bundle": contents,
        "sizes": sizes_of(contents),
        "from_env_file": tuple(from_env_file(contents)),
        "api_keys": API_KEYS,
        "settings_name": f"{contents.name}-settings",
        "secrets_name": f"{contents.name}-secrets",
        "shutdown": shutdown,
        "alerts": alerts(contents.recipe.checks.startup_timeout, contents.runtime.SERVER),
        "environment": fixed(contents, shutdown),
        "environment_in_short_grace": fixed(contents, shutdown_within(contents, _POD_GRACE)),
        "cluster": contents.recipe.serve.cluster,
        "gateway": route if isinstance(route, GatewayRoute) else None,
        "ingress": route if isinstance(route, IngressRoute) else None,
        "most_replicas": max(contents.recipe.serve.cluster.replicas, _MOST_REPLICAS),
        "annotations": ingress_annotations(contents),
        "selector": selector,
        "labels": selector | {"app.kubernetes.io/version": contents.tag, "app.kubernetes.io/component": "model-server"},
        "volume_labels": {
            "app.kubernetes.io/name": f"{contents.name}-model",
            "app.kubernetes.io/part-of": contents.name,
            "app.kubernetes.io/component": "model-loader",
        },
        "job": f"{contents.name}-loader-{contents.tag}",
        "contained": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "waiting": str(max(1, contents.recipe.serve.max_batch_size // 2)),
        "model_format": f"{contents.runtime.HUB_LIBRARY}-{'engine' if contents.engine_config else 'checkpoint'}",
    }


def render_route(contents: BundleContents, folder: str, backend: Backend) -> dict[str, str]:
    """Render the way of clients to a Service into a folder of the bundle; nothing if the recipe has none."""
    text = route_file(contents, backend)
    return {f"{folder}/{ROUTE}": text} if text else {}


def render_all(contents: BundleContents, folder: str, templates: str, names: tuple[str, ...]) -> dict[str, str]:
    """Render YAML templates into a folder of the bundle.

    Args:
        contents: The contents of the bundle.
        folder: Their folder in the bundle.
        templates: The folder of their templates.
        names: Their names, relative to both.
    """
    values = values_of(contents)
    return {f"{folder}/{name}": render_yaml(f"{templates}/{name}.j2", **values) for name in names}


def model_volume(contents: BundleContents) -> dict[str, str]:
    """Render the volume with the model and its loader; nothing if the image includes the model."""
    if contents.embed_model:
        return {}
    sums = sums_text({path: file.sha256 for path, file in contents.model_files.items()})
    size = f"{contents.size / 1e9:.1f} GB"
    script = render_text("model_volume/load-model.sh.j2", **values_of(contents), folder=MODEL_FOLDER, size=size)
    names = ("kustomization.yaml", "volume.yaml", "loader.yaml", "network-policy.yaml")
    manifests = render_all(contents, "model-volume", "model_volume", names)
    return {"model-volume/SHA256SUMS": sums, "model-volume/load-model.sh": script, **manifests}
