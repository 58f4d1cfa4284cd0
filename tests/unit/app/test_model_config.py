"""What a model's files tell of its quantization before a plan runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app.model_config import quantization_of_files
from orchestrator.errors import ConfigInvalidError
from orchestrator.quantization.files import write_json
from orchestrator.recipe.lock import Lock, LockedFile, LockedRepository
from orchestrator.recipe.model import Recipe

COMMIT = "c" * 40


def recipe(**model: object) -> Recipe:
    whole = {"license": "mit", "architecture": "LlamaForCausalLM", "parameters": 8e9, **model}
    if "path" in model:
        del whole["license"]
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "x",
            "description": "x",
            "model": whole,
            "target": "dgx-spark",
            "image": "tensorrt-llm-1.2.1",
            "quantization": {"format": "nvfp4", "method": "onepass"},
        }
    )


def test_the_configuration_of_a_local_model_is_read(tmp_path: Path) -> None:
    local = recipe(path="model")
    (tmp_path / "model").mkdir()
    assert quantization_of_files(local, None, tmp_path) is None
    config = tmp_path / "model" / "config.json"
    write_json(config, {"quantization_config": None})
    assert quantization_of_files(local, None, tmp_path) is None
    write_json(config, {"quantization_config": {"quant_method": "gptq"}})
    found = quantization_of_files(local, None, tmp_path)
    assert found == "model is quantized: its config.json has a quantization_config"
    config.write_text("[]")
    with pytest.raises(ConfigInvalidError):
        quantization_of_files(local, None, tmp_path)


def test_so_is_the_file_of_modelopt(tmp_path: Path) -> None:
    (tmp_path / "hf_quant_config.json").write_text("{}")
    found = quantization_of_files(recipe(path=str(tmp_path)), None, tmp_path)
    assert found == f"{tmp_path} is quantized: it has hf_quant_config.json"


@pytest.mark.parametrize(("name", "quantized"), [("hf_quant_config.json", True), ("config.json", False)])
def test_the_lock_lists_the_file_of_modelopt(tmp_path: Path, name: str, quantized: bool) -> None:
    files = (LockedFile(path=name, size=2, git_sha1="a" * 40),)
    locked = LockedRepository(repo="o/m", revision="main", commit=COMMIT, files=files)
    lock = Lock(recipe="x", repositories=(locked,))
    found = quantization_of_files(recipe(repo="o/m", revision=COMMIT), lock, tmp_path)
    assert found == ("o/m is quantized: it has hf_quant_config.json" if quantized else None)
    assert quantization_of_files(recipe(repo="o/m"), None, tmp_path) is None
