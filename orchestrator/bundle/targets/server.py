"""Copies the gateway's code, which is the same in every bundle."""

from __future__ import annotations

from importlib.resources import files as resources

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.templating import verbatim


def files(_: BundleContents) -> dict[str, str]:
    """Copy the gateway and its start script."""
    gateway = resources("orchestrator.bundle") / "gateway"
    names = ("start_server.sh", *(f"gateway/{file.name}" for file in gateway.iterdir() if file.name.endswith(".py")))
    return {name: verbatim(name) for name in names}
