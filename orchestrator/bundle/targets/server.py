"""Copies the gateway's code, which is the same in every bundle."""

from __future__ import annotations

from importlib.resources import files as resources

from orchestrator.bundle.facts import Facts

_START = "start_server.sh"


def files(_: Facts) -> dict[str, str]:
    """Copy the gateway and its start script."""
    package = resources("orchestrator.bundle")
    sources = (entry for entry in (package / "gateway").iterdir() if entry.name.endswith(".py"))
    rendered = {f"gateway/{source.name}": source.read_text(encoding="utf-8") for source in sources}
    return {_START: (package / _START).read_text(encoding="utf-8"), **rendered}
