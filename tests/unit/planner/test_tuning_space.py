"""The options that `tune` tries, beside the recipe's own values."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.planner.tuning import Axis
from orchestrator.planner.tuning_space import BATCH, CACHE, MEMORY, TOKENS, axes_of, changes_of, point_of, start_of
from orchestrator.recipe.model import Recipe
from orchestrator.steps.shape import Shape
from tests.unit.planner.conftest import Change


def axes(catalog: Catalog, recipe: Recipe, users: int = 8) -> dict[str, Axis]:
    shape = Shape(recipe, catalog)
    return {axis.name: axis for axis in axes_of(recipe, shape.server, shape.runtime, users, drafts=True)}


def test_limits_are_ordered_by_memory(catalog: Catalog, changed: Change) -> None:
    found = axes(catalog, changed({"serve.max_batch_size": 64}))
    assert found[BATCH].values == (2, 4, 8, 64)
    for name in (BATCH, TOKENS, MEMORY):
        assert (found[name].ordered, found[name].memory) == (True, 1)
        values: list[Any] = list(found[name].values)
        assert values == sorted(set(values))


def test_a_cache_of_8_bits_may_become_more_exact(catalog: Catalog, changed: Change) -> None:
    recipe = changed({"serve.kv_cache.dtype": "fp8", "quantization.kv_cache": "none"})
    found = axes(catalog, recipe)
    assert (found[CACHE].values, found[CACHE].ordered) == (("fp8", "auto"), False)
    assert CACHE not in axes(catalog, changed({"serve.kv_cache.dtype": "auto"}))


@pytest.mark.parametrize("name", [BATCH, MEMORY])
def test_a_point_and_its_changes_are_the_same(catalog: Catalog, changed: Change, name: str) -> None:
    recipe = changed()
    known = tuple(axes(catalog, recipe).values())
    start = start_of(known, recipe)
    axis = next(axis for axis in known if axis.name == name)
    other = next(value for value in axis.values if value != axis.values[start[known.index(axis)]])
    point = point_of(known, start, {name: other})
    assert point is not None
    assert changes_of(known, start, point) == {name: other}
    assert changes_of(known, start, start) == {}
    assert point_of(known, start, {name: -1}) is None
