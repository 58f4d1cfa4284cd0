"""Describes how clients outside a cluster reach a server: an HTTPRoute of the Gateway API, or an Ingress."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.gateway.variables import Environment
from orchestrator.bundle.templating import render_yaml
from orchestrator.recipe.model import GatewayRoute, IngressRoute
from orchestrator.values import frozen

_UNLIMITED = 86400
"""Seconds that stand for no limit, for controllers that need a number."""


@frozen
class Backend:
    """The Service that a route leads to."""

    name: str
    port: int


def route_file(contents: BundleContents, backend: Backend) -> str:
    """Render the route of the recipe; empty if it has none."""
    route = contents.recipe.serve.cluster.route
    if route is None:
        return ""
    template = "route/http-route.yaml.j2" if isinstance(route, GatewayRoute) else "route/ingress.yaml.j2"
    values = {"route": route, "backend": backend, "annotations": ingress_annotations(contents)}
    return render_yaml(template, bundle=contents, **values)


def ingress_annotations(contents: BundleContents) -> Mapping[str, str]:
    """Return the annotations of an Ingress, by which its controller waits as long as the gateway does."""
    route = contents.recipe.serve.cluster.route
    if not isinstance(route, IngressRoute):
        return {}
    if route.annotations is not None:
        return route.annotations
    limits = Environment(contents.recipe.serve.environment)
    seconds = int(limits.number("NIM_GATEWAY_REQUEST_SECONDS") or _UNLIMITED)
    size = limits.integer("NIM_GATEWAY_MAX_BODY_BYTES")
    return {
        "nginx": {
            "nginx.ingress.kubernetes.io/proxy-body-size": str(size),
            "nginx.ingress.kubernetes.io/proxy-buffering": "off",
            "nginx.ingress.kubernetes.io/proxy-read-timeout": str(seconds),
            "nginx.ingress.kubernetes.io/proxy-send-timeout": str(seconds),
        },
        "traefik": {},  # it limits neither the time of an answer nor the size of a request, and buffers nothing
        "alb": {
            # its own limit is 4000 seconds without a byte
            "alb.ingress.kubernetes.io/load-balancer-attributes": f"idle_timeout.timeout_seconds={min(seconds, 4000)}",
            "alb.ingress.kubernetes.io/target-type": "ip",
        },
    }[route.ingress_class]
