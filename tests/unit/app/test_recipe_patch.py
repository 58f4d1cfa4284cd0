"""A patch changes values in the text of a recipe and nothing else, however it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.recipe_patch import apply_patch, patch_of, undo_patch
from orchestrator.app.settings import Settings
from orchestrator.errors import RecipeUnknownError

HEAD = """\
schema_version: 1
name: mine
description: A model.
model: {generate: {}}
target: dgx-spark
image: tensorrt-llm-1.2.1
quantization: {format: bf16, method: none}
"""
VALUES = {
    "serve.max_batch_size": 16,
    "serve.kv_cache.free_gpu_memory_fraction": 0.7,
    "serve.options.moe_config.backend": "CUTLASS",
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "recipes").mkdir()
    return Settings({}, project_folder=tmp_path)


@pytest.mark.parametrize(
    "serve",
    [
        "",
        "serve: {}\n",
        "serve: {max_batch_size: 4, kv_cache: {dtype: auto}} # all in one line\n",
        "serve: # a block\n  max_batch_size: 4 # four\n  kv_cache: {free_gpu_memory_fraction: 0.9, dtype: auto}\n",
        "serve:\n    kv_cache:\n        dtype: auto\n    options:\n        moe_config: {max_num_tokens: 8}\n# end\n",
        "serve:\n  kv_cache:\n    free_gpu_memory_fraction: 0.9\n\n# the end",
    ],
)
def test_every_way_to_write_it_is_changed_and_restored(settings: Settings, tmp_path: Path, serve: str) -> None:
    file, name = tmp_path / "recipes" / "mine.yaml", RecipeName("mine")
    file.write_text(HEAD + serve)
    patch, kept = patch_of(settings, name, VALUES), tmp_path / "kept" / "mine.before"
    apply_patch(settings, patch, kept)
    changed = Settings({}, project_folder=tmp_path).load(name).recipe.serve
    assert (changed.max_batch_size, changed.kv_cache.free_gpu_memory_fraction) == (16, 0.7)
    moe = changed.options["moe_config"]
    assert isinstance(moe, dict)
    assert moe["backend"] == "CUTLASS"
    comments = [line.partition("#")[2] for line in serve.splitlines() if "#" in line]
    assert all(comment in file.read_text() for comment in comments)
    undo_patch(file, kept)
    assert file.read_text() == HEAD + serve


def test_a_recipe_of_the_tool_is_not_changed(settings: Settings, tmp_path: Path) -> None:
    name = RecipeName("tiny-llama-w4a16-nvfp4")
    before = settings.load(name).file.read_bytes()
    with pytest.raises(RecipeUnknownError, match="belongs to the tool"):
        apply_patch(settings, patch_of(settings, name, VALUES), tmp_path / "kept")
    assert settings.load(name).file.read_bytes() == before
