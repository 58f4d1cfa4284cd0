"""Chooses the image that quantizes."""

from __future__ import annotations

from orchestrator.catalog.load import Catalog
from orchestrator.errors import CatalogError
from orchestrator.recipe.model import Recipe


def quantizer_image(recipe: Recipe, catalog: Catalog) -> str:
    """Name the image with the recipe's quantizer: the recipe's choice, else the catalogue's first that fits.

    Raises:
        CatalogError: No image of the catalogue has hf_ptq.py for the target's processor.
    """
    if recipe.quantization.method != "modelopt":
        return recipe.image
    if recipe.quantization.image is not None:
        return recipe.quantization.image
    architecture = catalog.target(recipe.target).architecture
    for name, image in catalog.images.items():
        if image.has("hf_ptq.py") and architecture in image.architectures:
            return name
    message = f"{catalog.project.image_files[-1]}: no image has hf_ptq.py for {architecture}"
    raise CatalogError(message)
