"""What is taken into the store of a local model folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import CheckpointError, PathEscapesError
from orchestrator.models.weight_files import INDEX, SINGLE
from orchestrator.payloads import import_folder
from orchestrator.quantization.files import write_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "LICENSE", SINGLE):
        (folder / name).write_text("{}")
    return folder


def imported(model: Path) -> set[str]:
    output = model.parent / "out"
    import_folder.main(["--source", str(model), "--output", str(output)])
    return {path.relative_to(output).as_posix() for path in output.rglob("*")}


def test_a_model_is_taken_and_what_is_beside_it_is_not(model: Path) -> None:
    for stray in ("adapter_model.safetensors", "adapter_config.json", "old.safetensors", "pytorch_model.bin"):
        (model / stray).write_text("x")
    (model / "checkpoint-500").mkdir()
    (model / "checkpoint-500" / SINGLE).write_text("x")
    assert imported(model) == {"config.json", "tokenizer.json", "LICENSE", SINGLE}


def test_the_index_decides(model: Path) -> None:
    write_json(model / INDEX, {"weight_map": {"w": "part.safetensors"}})
    (model / "part.safetensors").write_text("x")
    assert {name for name in imported(model) if name.endswith(".safetensors")} == {"part.safetensors"}


def test_a_missing_weight_file_is_found_before_anything_is_taken(model: Path) -> None:
    write_json(model / INDEX, {"weight_map": {"w": "part.safetensors"}})
    with pytest.raises(CheckpointError, match=r"part\.safetensors, which is missing"):
        imported(model)
    assert not (model.parent / "out").exists()


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", SINGLE, "vocab.txt"])
def test_a_link_out_of_the_folder_is_refused(model: Path, name: str) -> None:
    key = model.parent / "id_ed25519"
    key.write_text("secret")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(key)
    with pytest.raises(PathEscapesError, match=name):
        imported(model)
    assert not (model.parent / "out").exists()


def test_a_link_that_leads_nowhere_is_refused_too(model: Path) -> None:
    (model / "NOTICE").symlink_to("/nowhere/at/all")
    with pytest.raises(PathEscapesError, match="NOTICE"):
        imported(model)


def test_a_folder_of_pickles_is_named_as_what_it_is(model: Path) -> None:
    (model / SINGLE).rename(model / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="has pickles only"):
        imported(model)
