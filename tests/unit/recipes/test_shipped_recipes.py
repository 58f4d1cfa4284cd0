"""The recipes that the project ships: each is valid, and refused just where it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.model import HubModel
from orchestrator.steps.registry import build_steps

ROOT = Path(__file__).resolve().parents[3]
BOOK = RecipeBook(ROOT / "recipes")
CATALOG = Catalog(Project(ROOT))
FILES = sorted((ROOT / "recipes").rglob("*.yaml"))

PROMISED = {
    "tiny-llama-w4a16-nvfp4",
    "llama3-70b-bf16",
    "llama3-70b-fp8",
    "llama3-70b-nvfp4",
    "llama3-70b-nvfp4-published",
    "llama3-70b-nvfp4-published-draft-target",
    "llama3-70b-nvfp4-published-eagle3",
    "llama3-8b-nvfp4",
    "mistral-7b-nvfp4",
    "qwen3-8b-nvfp4",
    "qwen3-14b-nvfp4",
    "qwen3-32b-nvfp4",
    "qwen3-32b-nvfp4-published",
    "qwen3-30b-a3b-nvfp4",
    "qwen3-30b-a3b-nvfp4-published",
    "gpt-oss-20b-mxfp4",
    "gpt-oss-120b-mxfp4",
    "phi-4-reasoning-plus-nvfp4",
    "phi-4-reasoning-plus-nvfp4-published",
    "phi-4-multimodal-nvfp4-published",
    "nemotron-nano-9b-v2-nvfp4-published",
    "nemotron-super-49b-fp8-published",
    "nemotron-3-super-120b-nvfp4-published",
    "llama4-scout-nvfp4-published",
    "qwen3-235b-a22b-nvfp4-published",
    "qwen3.6-27b-nvfp4",
    "qwen3.6-27b-fp8",
    "qwen3.6-35b-a3b-nvfp4",
    "qwen3.6-35b-a3b-w4a16-nvfp4-published",
    "qwen3-coder-next-nvfp4",
    "gemma-4-26b-a4b-nvfp4-published",
    "gemma-4-31b-nvfp4-published",
    "minimax-m2.7-nvfp4-published",
    "deepseek-coder-v2-lite-nvfp4",
    "jamba-1.5-large-nvfp4",
}


def test_every_promised_recipe_is_there() -> None:
    assert set(BOOK.names) >= PROMISED


@pytest.mark.parametrize("name", BOOK.names)
def test_a_recipe_is_refused_just_where_it_says_so(name: str) -> None:
    recipe = BOOK.load(name).recipe
    assert {refusal.code for refusal in refusals(rule_input(recipe, CATALOG))} == set(recipe.expected_refusals)


@pytest.mark.parametrize("name", BOOK.names)
def test_a_recipe_serves_with_an_image_whose_lists_have_its_model(name: str) -> None:
    codes = {warning.code for warning in warnings(rule_input(BOOK.load(name).recipe, CATALOG))}
    assert not codes & {"MODEL_UNLISTED", "MODEL_TYPE_UNLISTED"}


@pytest.mark.parametrize("name", BOOK.names)
def test_a_refusal_says_what_works_instead(name: str) -> None:
    assert all(refusal.hint for refusal in refusals(rule_input(BOOK.load(name).recipe, CATALOG)))


@pytest.mark.parametrize("name", BOOK.names)
def test_a_recipe_pins_no_commit_that_nobody_resolved(name: str) -> None:
    recipe = BOOK.load(name).recipe
    assert not isinstance(recipe.model, HubModel) or recipe.model.revision == "main"


@pytest.mark.parametrize("name", BOOK.names)
def test_a_recipe_is_named_after_its_format(name: str) -> None:
    assert BOOK.load(name).recipe.quantization.format.replace("_", "-") in name


@pytest.mark.parametrize("name", BOOK.names)
def test_a_name_says_whether_the_vendor_quantized_the_checkpoint(name: str) -> None:
    recipe = BOOK.load(name).recipe
    as_trained = recipe.quantization.format in {"bf16", "mxfp4"}  # gpt-oss was trained in MXFP4
    assert ("-published" in name) == (recipe.quantization.method == "none" and not as_trained)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_begins_with_a_line_that_says_what_it_is(file: Path) -> None:
    first = file.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")


def test_every_base_is_extended() -> None:
    bases = {file.stem for file in (ROOT / "recipes" / "bases").glob("*.yaml")}
    assert all(any(f"extends: {base}\n" in file.read_text() for file in FILES) for base in bases)


def test_the_flagship_is_built_by_the_steps_that_the_tiny_recipe_runs_on_a_processor() -> None:
    flagship, tiny = (BOOK.load(name).recipe for name in ("llama3-70b-nvfp4", "tiny-llama-nvfp4"))
    of_flagship, of_tiny = ([step.name for step in build_steps(recipe, CATALOG)] for recipe in (flagship, tiny))
    sources = {"download", "download-calibration", "calibration", "held-out", "generate", "benchmark"}
    assert [name for name in of_flagship if name not in sources] == [name for name in of_tiny if name not in sources]
    programs = [
        {step.name: step.argv[:3] for step in build_steps(recipe, CATALOG) if step.name not in sources}
        for recipe in (flagship, tiny)
    ]
    assert programs[0] == programs[1]
    assert flagship.model.repo == "meta-llama/Llama-3.3-70B-Instruct"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [name for name in BOOK.names if name.startswith("llama3-70b-")])
def test_only_a_published_recipe_of_the_flagship_takes_a_checkpoint_that_others_quantized(name: str) -> None:
    recipe = BOOK.load(name).recipe
    taken = recipe.quantization.method == "none" and recipe.quantization.format != "bf16"
    assert taken == (name.endswith("-published") or recipe.serve.speculative is not None)


def test_the_large_engine_is_built_with_a_warning_about_memory() -> None:
    recipe = BOOK.load("llama3-70b-nvfp4-engine").recipe
    assert recipe.backend == "tensorrt"
    assert [warning.code for warning in warnings(rule_input(recipe, CATALOG))] == ["ENGINE_MEMORY"]
