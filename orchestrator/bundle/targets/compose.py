"""Docker Compose on this machine."""

from __future__ import annotations

from orchestrator.bundle.facts import CONFIG, CONFIG_FOLDER, Facts
from orchestrator.bundle.texts import compose_text


def files(facts: Facts) -> dict[str, str]:
    """Render what Compose starts."""
    values = {"facts": facts, "recipe": facts.recipe, "config": CONFIG, "config_folder": CONFIG_FOLDER}
    return {"compose.yaml": compose_text("compose/compose.yaml.j2", **values)}
