"""Renders the model card: the model, its measured quality and speed, and every digest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.bundle.facts import Facts
from orchestrator.bundle.profile import profile_of
from orchestrator.bundle.templating import plain_text
from orchestrator.recipe.model import HubModel


def files(facts: Facts) -> dict[str, str]:
    """Render the card, with measured and predicted figures side by side."""
    recipe = facts.recipe
    text = plain_text(
        "model_card/MODEL_CARD.md.j2",
        facts=facts,
        recipe=recipe,
        source=recipe.model if isinstance(recipe.model, HubModel) else None,
        draft=facts.shape.draft,
        tags=[recipe.quantization.format, "tensorrt-llm", recipe.target],
        performance=facts.performance,
        levels=list(_levels(facts)),
        profile=profile_of(facts),
    )
    return {"MODEL_CARD.md": text}


def _levels(facts: Facts) -> Iterator[dict[str, Any]]:
    """Pair the two figures of each level of concurrency; None for a missing one."""
    levels = (facts.performance or {}).get("levels", [])
    measured = {level["concurrency"]: level for level in levels}
    levels = (facts.prediction or {}).get("levels", [])
    predicted = {level["concurrency"]: level["output_tokens_per_second"] for level in levels}
    for concurrency in sorted(measured.keys() | predicted.keys()):
        level = measured.get(concurrency, {})
        yield {
            "concurrency": concurrency,
            "measured": level.get("output_tokens_per_second"),
            "predicted": predicted.get(concurrency),
            "first_token": (level.get("time_to_first_token_ms") or {}).get("average"),
        }
