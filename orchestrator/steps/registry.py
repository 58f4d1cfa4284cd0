"""Lists every step in the order of the run."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.catalog.load import Catalog
from orchestrator.recipe.model import Recipe
from orchestrator.steps import (
    benchmark,
    calibration,
    candidates,
    convert,
    download,
    edge_engine,
    engine,
    evaluate,
    generate,
    held_out,
    import_folder,
    quantize,
    verify,
)
from orchestrator.steps.step import Step

Builder = Callable[[Recipe, Catalog], Step | None]

STEPS: tuple[Builder, ...] = (
    download.build,
    import_folder.build,
    generate.build,
    download.build_draft,
    calibration.build_download,
    calibration.build,
    quantize.build,
    convert.build,
    engine.build,
    edge_engine.build,
    held_out.build_download,
    held_out.build,
    evaluate.build,
    candidates.build_check,
    verify.build,
    benchmark.build,
)


def build_steps(recipe: Recipe, catalog: Catalog) -> tuple[Step, ...]:
    """Declare the steps of a recipe.

    A step is left out if the image lacks its tool. The plan refuses such a recipe with the reason.

    Raises:
        RecipeInvalidError: A tool does not have an option, or does not accept its value.
    """
    return tuple(step for step in (build(recipe, catalog) for build in STEPS) if step is not None)
