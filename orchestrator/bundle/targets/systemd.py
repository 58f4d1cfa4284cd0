"""Renders a unit for Podman's generator (quadlet), for systemd without Compose."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets.cluster import values_of
from orchestrator.bundle.templating import render_text


def files(contents: BundleContents) -> dict[str, str]:
    """Render the unit. Variables are quoted; every other value is a number, or a name that systemd accepts unquoted."""
    return {f"systemd/{contents.name}.container": render_text("systemd/server.container.j2", **values_of(contents))}
