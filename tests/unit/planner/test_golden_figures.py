"""The figures of some recipes, servers and formats, written down: a change of a formula or a constant shows in review.

UPDATE_GOLDEN=1 writes the files anew.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.models import shape_of
from orchestrator.planner.comparison import Subject, Terms, compare
from orchestrator.planner.drafts import drafts
from orchestrator.planner.estimate import estimate
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.preparation import Preparation, resident_peak
from orchestrator.planner.scheme import scheme_of
from orchestrator.planner.serving import Serving
from orchestrator.planner.serving_figures import serving_figures
from orchestrator.recipe.load import RecipeBook
from tests.unit.planner.byte_configs import DEEPSEEK_V2, GEMMA3, LLAMA, MIXTRAL, QWEN3_NEXT, Config
from tests.unit.planner.conftest import ROOT
from tests.unit.planner.test_bytes_memory import LLAMA_70B

GOLDEN = ROOT / "tests" / "golden" / "figures"
RECIPES = (
    "deepseek-coder-v2-lite-nvfp4",
    "gpt-oss-120b-mxfp4-eagle3",
    "jamba-1.5-large-nvfp4",
    "llama3-70b-nvfp4-engine",
    "llama3-70b-nvfp4-published-draft-target",
    "llama3-70b-w4a16-nvfp4",
    "mistral-7b-fp8",
    "nemotron-3-super-120b-nvfp4-published",
    "qwen3-235b-a22b-nvfp4-published-eagle3",
    "qwen3-8b-auto",
)
SERVERS: Mapping[str, tuple[Config, str, Mapping[str, Any]]] = {
    "dense": (LLAMA, "nvfp4", {}),
    "dense-batch": (LLAMA, "fp8", {"batch": 16, "context": 8192, "kv_dtype": "fp8"}),
    "dense-two-nodes": (LLAMA, "bf16", {"target": "dgx-spark-x2", "batch": 2}),
    "dense-one-of-two": (LLAMA, "nvfp4", {"target": "dgx-spark-x2", "gpus": 1, "cache_share": 0.9}),
    "dense-llama.cpp": (LLAMA, "q4_k_m", {"runtime": "llama.cpp", "context": 8192}),
    "dense-h200": (LLAMA, "fp8", {"target": "h200", "runtime": "vllm", "batch": 64, "tokens_per_step": 2048}),
    "dense-int4": (LLAMA, "int4_awq", {}),
    "dense-mxfp4": (LLAMA, "mxfp4", {"runtime": "vllm"}),
    "experts": (MIXTRAL, "w4a16_nvfp4", {"batch": 4, "draft_bytes": 1e9}),
    "latent": (DEEPSEEK_V2, "fp8_block_scale", {"runtime": "sglang", "batch": 8}),
    "windowed": (GEMMA3, "nvfp4", {"context": 20_000, "batch": 3, "runtime": "vllm"}),
    "recurrent": (QWEN3_NEXT, "nvfp4", {"context": 20_000, "batch": 32}),
    "without-gpu": (GEMMA3, "bf16", {"target": "cpu"}),
}

COMPARISONS: Mapping[str, tuple[Config, Mapping[str, Any]]] = {
    "dense": (LLAMA_70B, {}),
    "dense-two-requests": (LLAMA_70B, {"batch": 2}),
    "experts": (MIXTRAL, {"target": "h200", "context": 16_384, "kv_dtype": "fp8"}),
    "experts-llama.cpp": (MIXTRAL, {"runtime": "llama.cpp"}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_figures_of_a_recipe_are_those_that_were_written_down(name: str, catalog: Catalog) -> None:
    recipe = RecipeBook(catalog.project.recipes).load(name).recipe
    require_same(name, dataclasses.asdict(estimate(model_on_target(recipe, catalog.target(recipe.target)))))


@pytest.mark.parametrize("name", SERVERS)
def test_the_figures_of_a_server_are_those_that_were_written_down(name: str, catalog: Catalog) -> None:
    config, format_name, given = SERVERS[name]
    shape, target = shape_of(config), given.get("target", "dgx-spark")
    more = {"kv_dtype": "bf16", "runtime": "trtllm", **given, "target": catalog.target(target)}
    serving = Serving(shape, scheme_of(format_name), target_name=target, **more)
    engine = more["runtime"] == "trtllm"
    figures = serving_figures(serving, Preparation(resident_peak(shape), builds_engine=engine))
    require_same(f"server-{name}", dataclasses.asdict(figures))


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_formats_of_a_model_compare_as_it_was_written_down(name: str, catalog: Catalog) -> None:
    config, given = COMPARISONS[name]
    target = given.get("target", "dgx-spark")
    asked = {"runtime": "trtllm", "batch": 1, "context": 4096, "kv_dtype": "bf16", **given}
    terms = Terms(**{**asked, "target": catalog.target(target), "target_name": target})
    comparison = compare(Subject("model", shape_of(config), "its configuration"), terms, catalog.images.values())
    needed = drafts(comparison)
    assert needed is not None
    require_same(
        f"formats-{name}",
        {
            "rows": [
                {
                    "format": row.format,
                    "label": row.label,
                    "refused": row.refused,
                    "weights": row.figures.weights_bytes,
                    "fits": row.figures.fits,
                    "decode": row.figures.decode and dataclasses.asdict(row.figures.decode),
                    "reaches": [[reach.batch, reach.context] for reach in row.reaches],
                }
                for row in comparison.rows
            ],
            "drafts": {
                "format": needed.row.format,
                "draft_cost": needed.draft_cost,
                "check_cost": needed.check_cost,
                "most": needed.most,
                "quoted": needed.quoted,
                "wanted": [dataclasses.asdict(each) for each in needed.wanted],
            },
        },
    )


def require_same(name: str, figures: Mapping[str, Any]) -> None:
    text = json.dumps(rounded(figures), indent=1, ensure_ascii=False) + "\n"
    file = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Give numbers nine digits: libraries of mathematics differ in the last ones."""
    match value:
        case float():
            return float(f"{value:.9g}")
        case dict():
            return {str(key): rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [rounded(each) for each in value]
        case _:
            return value
