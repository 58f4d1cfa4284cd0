"""Renders the model card: the model, its measured quality and speed, and every digest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.profile import profile_of
from orchestrator.bundle.templating import render_text
from orchestrator.recipe.model import HubModel


def files(contents: BundleContents) -> dict[str, str]:
    """Render the card, with measured and predicted figures side by side."""
    recipe = contents.recipe
    text = render_text(
        "model_card/MODEL_CARD.md.j2",
        bundle=contents,
        recipe=recipe,
        source=recipe.model if isinstance(recipe.model, HubModel) else None,
        draft=contents.shape.draft,
        tags=[recipe.quantization.format, contents.runtime.HUB_LIBRARY, recipe.target],
        performance=contents.performance,
        levels=list(_levels(contents)),
        profile=profile_of(contents),
    )
    return {"MODEL_CARD.md": text}


def _levels(contents: BundleContents) -> Iterator[dict[str, Any]]:
    """Pair the two figures of each level of concurrency; None for a missing one."""
    levels = (contents.performance or {}).get("levels", [])
    measured = {level["concurrency"]: level for level in levels}
    levels = (contents.prediction or {}).get("levels", [])
    predicted = {level["concurrency"]: level["output_tokens_per_second"] for level in levels}
    for concurrency in sorted(measured.keys() | predicted.keys()):
        level = measured.get(concurrency, {})
        yield {
            "concurrency": concurrency,
            "measured": level.get("output_tokens_per_second"),
            "predicted": predicted.get(concurrency),
            "first_token": (level.get("time_to_first_token_ms") or {}).get("average"),
        }
