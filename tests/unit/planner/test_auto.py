"""A plan for formats that are chosen only while the model is quantized counts what the budget allows at most."""

from __future__ import annotations

import pytest

from orchestrator.planner.weights import served_weights
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.model import Recipe
from tests.unit.steps.recipes import CATALOG

BOOK = RecipeBook(CATALOG.project.recipes)


def _with(budget: str) -> Recipe:
    return BOOK.load("qwen3-8b-auto", (f"quantization.budget={budget}",)).recipe


@pytest.mark.parametrize(
    ("budget", "bits"), [("{bits_per_weight: 5}", 8), ("{bits_per_weight: 8}", 8), ("{bits_per_weight: 8.1}", 16)]
)
def test_bits_count_as_the_next_single_format(budget: str, bits: float) -> None:
    weights = served_weights(_with(budget)).value
    assert bits / 8 * 8.1e9 < weights < bits / 8 * 8.3e9 * 1.15  # the embedding and the head stay in BF16


def test_bytes_count_as_they_are() -> None:
    assert served_weights(_with("{bits_per_weight: null, bytes: 6000000000}")).value == 6e9
    assert served_weights(_with("{bits_per_weight: null, bytes: 60000000000}")).value < 17e9  # no more than there is
