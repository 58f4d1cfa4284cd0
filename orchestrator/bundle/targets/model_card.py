"""Renders the model card: the model, its measured quality and speed, and every digest."""

from __future__ import annotations

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.profile import profile_of
from orchestrator.bundle.templating import render_text
from orchestrator.planner.prediction import beside_measured
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
        levels=beside_measured(contents.performance, contents.prediction),
        profile=profile_of(contents),
    )
    return {"MODEL_CARD.md": text}
