"""The steps of some recipes, written down: a change of what is run shows in review.

UPDATE_GOLDEN=1 writes the files anew.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import pytest

from orchestrator.recipe.load import RecipeBook
from orchestrator.steps.registry import build_steps
from orchestrator.steps.step import Step
from tests.unit.steps.recipes import CATALOG, ROOT, words

GOLDEN = ROOT / "tests" / "golden" / "steps"
RECIPES = (
    "tiny-llama-w4a16-nvfp4",
    "llama3-70b-nvfp4",
    "llama3-70b-nvfp4-engine",
    "llama3-70b-nvfp4-published-draft-target",
    "mistral-7b-nvfp4",
    "nemotron-3-super-120b-nvfp4-published",
    "qwen3-235b-a22b-nvfp4-published",
    "jamba-1.5-mini-nvfp4",
    "qwen3-8b-nvfp4-edge-llm",
)


@pytest.mark.parametrize("name", RECIPES)
def test_the_steps_are_those_that_were_written_down(name: str) -> None:
    recipe = RecipeBook(CATALOG.project.recipes).load(name).recipe
    text = json.dumps([_plain(step) for step in build_steps(recipe, CATALOG)], indent=1, ensure_ascii=False) + "\n"
    file = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def _plain(step: Step) -> dict[str, object]:
    commands = [" ".join(words(command)) for command in step.commands]
    return {**asdict(step), "argv": commands}
