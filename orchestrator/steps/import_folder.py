"""Declares the import of the model from a local folder."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.executors.job import Inside
from orchestrator.recipe.model import LocalModel, Recipe
from orchestrator.steps.shape import HF_CHECKPOINT, OUT, SOURCE, payload
from orchestrator.steps.step import Folder, Step


def build(recipe: Recipe, _catalog: Catalog) -> Step | None:
    """Declare the import of a local model."""
    if not isinstance(recipe.model, LocalModel):
        return None
    return Step(
        name="import",
        argv=payload("import_folder", {"source": Inside(SOURCE), "output": OUT}),
        outputs=HF_CHECKPOINT,
        folders=(Folder(recipe.model.path, SOURCE),),
        needs_code=True,
    )
