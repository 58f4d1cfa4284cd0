"""Finds the user's files that replace files of the tool with the same name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.app.settings import Settings
from orchestrator.recipe.load import LoadedRecipe
from orchestrator.values import frozen


@frozen
class Shadow:
    """A file of the user that replaces one of the tool."""

    kind: str
    """`recipe`, `base`, `image`, `target` or `options`."""
    name: str
    file: Path

    def __str__(self) -> str:
        """Format it as a line for people."""
        return f"{self.kind} {self.name} from {self.file}, instead of the tool's own"

    def document(self) -> dict[str, str]:
        """Convert it to JSON."""
        return {"kind": self.kind, "name": self.name, "file": str(self.file)}


def shadows_of(settings: Settings, loaded: LoadedRecipe, images: Iterable[str | None] = ()) -> tuple[Shadow, ...]:
    """Find what a recipe takes from the user's project although the tool has something of that name.

    Args:
        settings: The settings with the project.
        loaded: The recipe.
        images: The images that its plan uses besides those that it names itself.
    """
    recipe = loaded.recipe
    named = [name for name in (recipe.image, recipe.quantization.image, *images) if name in settings.catalog.images]
    found = [*_of_recipe(loaded), *_of_target(settings, recipe.target)]
    return (*found, *_of_images(settings, tuple(dict.fromkeys(filter(None, named)))))


def _of_recipe(loaded: LoadedRecipe) -> Iterator[Shadow]:
    for file in loaded.shadows:
        yield Shadow("base" if file.parent.name == "bases" else "recipe", file.stem, file)


def _of_target(settings: Settings, name: str) -> Iterator[Shadow]:
    file = settings.catalog.shadows_target(name)
    if file:
        yield Shadow("target", name, file)


def _of_images(settings: Settings, names: tuple[str, ...]) -> Iterator[Shadow]:
    catalog = settings.catalog
    images = {name: catalog.image(name) for name in names}
    bases = {image.build.base for image in images.values() if image.build}
    for name in dict.fromkeys((*names, *sorted(bases))):
        file = catalog.shadows_image(name)
        if file:
            yield Shadow("image", name, file)
    for table in dict.fromkeys(tool.options for image in images.values() for tool in image.tools.values()):
        file = catalog.shadows_options(table)
        if file:
            yield Shadow("options", table, file)
