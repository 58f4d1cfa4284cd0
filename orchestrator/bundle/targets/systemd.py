"""Renders a unit for Podman's generator (quadlet), for systemd without Compose."""

from __future__ import annotations

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.targets.cluster import values_of
from orchestrator.bundle.templating import plain_text


def files(facts: Facts) -> dict[str, str]:
    """Render the unit. Every value in it is a number, or a name that systemd accepts unquoted."""
    return {f"systemd/{facts.name}.container": plain_text("systemd/server.container.j2", **values_of(facts))}
