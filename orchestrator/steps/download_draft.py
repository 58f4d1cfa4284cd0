"""Declares the download of the draft model from the Hub."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.recipe.model import Recipe
from orchestrator.steps.download import download
from orchestrator.steps.shape import Shape
from orchestrator.steps.step import Step


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the download of the draft model."""
    draft = Shape(recipe, catalog).draft
    return download("download-draft", draft) if draft else None
