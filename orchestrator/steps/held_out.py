"""Declares the held-out text for the comparison. None of it was used for calibration."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.recipe.model import Recipe
from orchestrator.steps.calibration import (
    RANDOM,
    Dataset,
    SourceText,
    calibration_dataset,
    conversion_step,
    dataset_named,
    download_step,
    is_local,
    needs_text,
)
from orchestrator.steps.shape import CALIBRATION, Shape
from orchestrator.steps.step import Input, Step

DOWNLOAD = "download-held-out"


def build_download(recipe: Recipe, _catalog: Catalog) -> Step | None:
    """Declare the download of a known data set, unless calibration fetches the same."""
    dataset = held_out_dataset(recipe)
    if dataset is None or recipe.checks.held_out is None or _download(recipe) != DOWNLOAD:
        return None
    return download_step(DOWNLOAD, dataset, recipe.checks.held_out.revision)


def build(recipe: Recipe, catalog: Catalog) -> Step | None:
    """Declare the conversion of the text, without the calibration's samples."""
    held_out = recipe.checks.held_out
    if held_out is None or held_out.dataset == RANDOM:
        return None
    text = SourceText(held_out.dataset, held_out_dataset(recipe), _download(recipe), held_out.samples)
    without = Input("calibration", CALIBRATION) if needs_text(recipe) else None
    return conversion_step("held-out", text, Shape(recipe, catalog).quantizer_image, without)


def held_out_dataset(recipe: Recipe) -> Dataset | None:
    """Return the data set on the Hub for a recipe's comparison, if any."""
    held_out = recipe.checks.held_out
    if held_out is None or held_out.dataset == RANDOM or is_local(held_out.dataset):
        return None
    return dataset_named(recipe, held_out.dataset, "checks.held_out")


def _download(recipe: Recipe) -> str:
    """Name the step that fetches the text."""
    held_out, calibration = recipe.checks.held_out, recipe.quantization.calibration
    same = held_out is not None and held_out.revision == calibration.revision
    return "download-calibration" if same and calibration_dataset(recipe) == held_out_dataset(recipe) else DOWNLOAD
