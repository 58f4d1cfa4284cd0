"""Every field of a recipe reaches a command, a file of the deployment or a figure; or it is refused or warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from orchestrator.bundle.targets import render_files
from orchestrator.errors import OrchestratorError
from orchestrator.planner.model_on_target import model_on_target
from orchestrator.planner.prediction import predict
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.recipe.model import Recipe
from orchestrator.steps.registry import build_steps
from tests.support.bundles import CATALOG, contents_of, pinned_recipe

CONTEXTS = (
    "llama3-70b-nvfp4",
    "llama3-70b-nvfp4-engine",
    "llama3-70b-nvfp4-published",
    "llama3-70b-nvfp4-published-eagle3",
)
"""A checkpoint of ours, a TensorRT engine, a published checkpoint, one with a draft."""

COMMANDS: Mapping[str, str] = {
    "model.repo": "Qwen/Qwen3-32B",
    "model.revision": "a-branch",
    "model.trust": "{commit: 0123456789012345678901234567890123456789, remote_code: true}",
    "target": "b200",
    "image": "tensorrt-llm-1.2.0rc6",
    "quantization.format": "fp8",
    "quantization.budget": "{bits_per_weight: 5}",
    "quantization.method": "modelopt",
    "quantization.image": "modelopt-0.47",
    "quantization.calibration.dataset": "random",
    "quantization.calibration.chat_template": "true",
    "quantization.calibration.revision": "a-branch",
    "quantization.calibration.samples": "7",
    "quantization.calibration.sequence_length": "77",
    "quantization.calibration.batch_size": "3",
    "quantization.shared_scales": "true",
    "quantization.scale_search": "weighted",
    "quantization.rounding": "gptq",
    "quantization.smoothing": "norms",
    "quantization.input_scales": "headroom",
    "quantization.layer_inputs": "quantized",
    "quantization.resources.device": "cpu",
    "quantization.resources.threads": "3",
    "quantization.resources.memory": "16GB",
    "quantization.resources.spill": "true",
    "quantization.options": "{seed: 3}",
    "backend": "tensorrt",
    "engine.convert": "{workers: 3}",
    "engine.build": "{workers: 3}",
    "checks.min_snr_db": "7",
    "checks.max_kl_divergence": "0.77",
    "checks.max_perplexity_increase": "0.77",
    "checks.held_out": "{samples: 3}",
    "checks.compare": "[max]",
    "checks.chat_template": "false",
    "checks.serve": "false",
    "checks.startup_timeout": "77",
    "benchmark.input_tokens": "77",
    "benchmark.output_tokens": "77",
    "benchmark.requests": "77",
    "benchmark.concurrency": "[3]",
    "benchmark.seed": "7",
    "benchmark.precision": "0.05",
    "benchmark.max_runs": "4",
    "serve.port": "8123",
    "serve.max_batch_size": "3",
    "serve.max_num_tokens": "777",
    "serve.max_seq_len": "777",
    "serve.tensor_parallel_size": "2",
    "serve.served_model_name": "x",
    "serve.reasoning_parser": "qwen3",
    "serve.tool_parser": "qwen3",
    "serve.kv_cache.dtype": "nvfp4",
    "serve.kv_cache.free_gpu_memory_fraction": "0.5",
    "serve.kv_cache.max_tokens": "777",
    "serve.kv_cache.enable_block_reuse": "false",
    "serve.speculative": "{type: mtp}",
    "serve.options": "{guided_decoding_backend: outlines}",
    "serve.environment": "{A: b}",
}
"""By field, a value that changes a command of a step or a file that it reads."""
FIGURES: Mapping[str, str] = {
    "quantization.kv_cache": "none",
    "quantization.exclude": "['model.layers.0.*']",
    "serve.workload.input_tokens": "77",
    "serve.workload.output_tokens": "77",
}
"""Of a published checkpoint, what is stored in it; of ours, options of the quantizer; what a prediction is made for."""
FILES: Mapping[str, str] = {
    "model.license": "another-licence",
    "model.architecture": "MistralForCausalLM",
    "model.parameters": "8e9",
    "model.active_parameters": "3e9",
}
"""Facts for people: they are in files of the deployment, or refused."""
ELSEWHERE = {
    "schema_version": "one value is allowed",
    "name": "the folder of the deployment; no override changes it",
    "description": "the list of recipes",
    "formerly": "commands with an old name",
    "expected_refusals": "the dry-run of the catalogue",
    "model.gated": "`app.access` asks for a token",
    "model.path": "a model of another kind: tests/unit/steps",
    "serve.cluster.replicas": "files of clusters: tests/unit/bundle/test_settings_reach_targets.py",
    "serve.cluster.route": "files of clusters: tests/unit/bundle/test_settings_reach_targets.py",
    "serve.workload.concurrency": "the users of a plan: tests/unit/planner/test_queueing.py",
    "serve.workload.rate": "the users of a plan: tests/unit/planner/test_queueing.py",
    "model.generate": "a model of another kind: tests/unit/payloads/test_generate.py",
}
"""Fields with another purpose, and what they reach."""
_WHOLE = ("speculative", "route")
"""Fields with one value of several kinds."""


def paths_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every field, with the fields of its parts in its place, unless the part is one value of its own."""
    for name, field in model.model_fields.items():
        parts = [part for part in _models(field.annotation) if part.__name__ not in {"HeldOut", "Budget", "Trust"}]
        if name in _WHOLE or not parts:
            yield f"{prefix}{name}"
        for part in parts if name not in _WHOLE else ():
            yield from paths_of(part, f"{prefix}{name}.")


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _without_a_row(recipe: type[Recipe]) -> set[str]:
    """Return the fields without a row, and the rows without a field."""
    found = {path for path in paths_of(recipe) if not path.startswith("model.generate.")}
    return found ^ ({*COMMANDS, *FIGURES, *FILES, *ELSEWHERE} - {"model.generate"})


def test_every_field_has_a_row() -> None:
    assert _without_a_row(Recipe) == set()


def test_a_new_field_is_missed_in_the_table() -> None:
    class Part(BaseModel):
        inner: int = 1

    class Longer(Recipe):
        part: Part | None = None

    assert _without_a_row(Longer) == {"part.inner"}


def _steps(recipe: Recipe) -> str:
    return repr(build_steps(recipe, CATALOG))


@cache
def _plain(name: str) -> Recipe:
    return pinned_recipe(name)


def _told(recipe: Recipe) -> set[str]:
    given = rule_input(recipe, CATALOG)
    return {found.code for found in (*refusals(given), *warnings(given))}


def _changed(context: str, field: str, value: str) -> Recipe | None:
    """Set a field; None if the recipe is refused."""
    try:
        recipe = pinned_recipe(context, f"{field}={value}")
        _steps(recipe)
    except OrchestratorError:
        return None
    return recipe


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("field", "value"), COMMANDS.items())
def test_a_field_reaches_a_command_or_is_refused_or_warned_of(context: str, field: str, value: str) -> None:
    plain = _plain(context)
    recipe = _changed(context, field, value)
    if recipe is not None and recipe != plain:
        assert _steps(recipe) != _steps(plain) or _told(recipe) - _told(plain)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("field", "value"), FIGURES.items())
def test_what_a_checkpoint_has_reaches_a_command_or_a_figure(context: str, field: str, value: str) -> None:
    plain = _plain(context)
    recipe = _changed(context, field, value)
    if recipe is not None and recipe != plain:
        told = _told(recipe) - _told(plain)
        figures = [predict(model_on_target(one, CATALOG.target(one.target))) for one in (recipe, plain)]
        assert _steps(recipe) != _steps(plain) or told or figures[0] != figures[1]


@pytest.mark.parametrize(("field", "value"), FILES.items())
def test_a_fact_reaches_a_file_of_the_deployment(field: str, value: str, tmp_path: Path) -> None:
    plain, changed = (
        render_files(contents_of(CONTEXTS[0], tmp_path / kind, *overrides))
        for kind, overrides in {"plain": (), "changed": (f"{field}={value}",)}.items()
    )
    assert {name for name, text in changed.items() if plain.get(name) != text}


@pytest.mark.parametrize("asked", ["fp8", "nvfp4"])
def test_a_cache_that_does_not_reach_an_engine_is_refused(asked: str) -> None:
    recipe = pinned_recipe("llama3-70b-nvfp4-engine", f"serve.kv_cache.dtype={asked}", "quantization.kv_cache=none")
    assert "KV_CACHE_UNSUPPORTED" in {found.code for found in refusals(rule_input(recipe, CATALOG))}


def test_a_grammar_that_no_image_has_is_refused() -> None:
    recipe = pinned_recipe("llama3-70b-nvfp4", "serve.options={guided_decoding_backend: outlines}")
    assert "OPTION_VALUE" in {found.code for found in refusals(rule_input(recipe, CATALOG))}
