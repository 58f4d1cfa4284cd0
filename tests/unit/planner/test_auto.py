"""A plan for formats that are chosen only while the model is quantized counts what the budget allows at most."""

from __future__ import annotations

import pytest

from orchestrator.planner.model_on_target import model_on_target
from orchestrator.recipe.load import RecipeBook
from tests.unit.steps.recipes import CATALOG

BOOK = RecipeBook(CATALOG.project.recipes)


def weights(budget: str) -> float:
    recipe = BOOK.load("qwen3-8b-auto", (f"quantization.budget={budget}",)).recipe
    return model_on_target(recipe, CATALOG.target(recipe.target)).weights.value


@pytest.mark.parametrize(
    ("budget", "bits"), [("{bits_per_weight: 5}", 8), ("{bits_per_weight: 8}", 8), ("{bits_per_weight: 8.1}", 16)]
)
def test_bits_count_as_the_next_single_format(budget: str, bits: float) -> None:
    assert bits / 8 * 8.1e9 < weights(budget) < bits / 8 * 8.3e9 * 1.15  # the embedding and the head stay in BF16


def test_bytes_count_as_they_are() -> None:
    assert weights("{bits_per_weight: null, bytes: 6000000000}") == 6e9
    assert weights("{bits_per_weight: null, bytes: 60000000000}") < 17e9  # no more than there is
