"""What a refusal of a recipe on a target suggests is in the catalogue, and removes the refusal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.errors import Refusal
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals
from orchestrator.recipe.load import RecipeBook
from tests.support.environments import ROOT
from tests.support.sample import sample

BOOK = RecipeBook(ROOT / "recipes")
CATALOG = Catalog(Project(ROOT))
_QUANTIZATION = (
    "format",
    "method",
    "scale_search",
    "rounding",
    "smoothing",
    "input_scales",
    "layer_inputs",
    "budget",
)
_KEYS = {
    "image": "image",
    "target": "target",
    "backend": "backend",
    **{key: f"quantization.{key}" for key in _QUANTIZATION},
}
_NAME = r"[\w.-]++"
_ONE = rf"(?:{'|'.join(_KEYS)}) {_NAME}"
_OTHERS = rf"(?: or (?!{'|'.join(_KEYS)}){_NAME}(?! \w))*"
_SUGGESTED = re.compile(rf"\b(?:use|or) ({_ONE})({_OTHERS})(?: with ({_ONE}(?: and {_ONE})*))?")
_SET = re.compile(r"set ([a-z_]+(?:\.[a-z_]+)*) to (\S*\w)")


def refused(name: str, target: str, *overrides: str) -> tuple[Refusal, ...]:
    recipe = BOOK.load(name, [f"target={target}", *overrides]).recipe
    return refusals(rule_input(recipe, CATALOG))


def suggestions(hint: str) -> Iterator[list[str]]:
    """Yield what a hint says as overrides of a recipe: alternatives, each of one or several."""
    for one, others, more in _SUGGESTED.findall(hint):
        key, first = one.split()
        besides = [_override(*part.split()) for part in more.split(" and ") if part]
        for value in (first, *others.split(" or ")[1:]):
            yield [_override(key, value), *besides]
    yield from ([f"{key}={value}"] for key, value in _SET.findall(hint))


def _kind(refusal: Refusal) -> tuple[str, str]:
    return refusal.code, refusal.message.split()[0]  # quantizing or serving does not fit


def _override(key: str, value: str) -> str:
    return f"{_KEYS[key]}={value}"


@pytest.mark.parametrize(("name", "target"), sample("hints", product(BOOK.names, CATALOG.targets), 40))
def test_what_a_refusal_suggests_removes_it(name: str, target: str) -> None:
    for refusal in refused(name, target):
        assert refusal.hint
        assert not refusal.hint.endswith(": ")
        for overrides in suggestions(refusal.hint):
            left = {_kind(after) for after in refused(name, target, *overrides)}
            assert _kind(refusal) not in left, (refusal, overrides)


def test_all_alternatives_of_a_hint_are_tried() -> None:
    found = list(
        suggestions("use image a-1.2 or format fp8 with method onepass and budget null: 4 GB, or use target b or c")
    )
    assert found == [
        ["image=a-1.2"],
        ["quantization.format=fp8", "quantization.method=onepass", "quantization.budget=null"],
        ["target=b"],
        ["target=c"],
    ]
    assert list(suggestions("set serve.tensor_parallel_size to 1, or try another")) == [
        ["serve.tensor_parallel_size=1"]
    ]
