"""Which files of a folder or repository belong to a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import CheckpointError, PathEscapesError
from orchestrator.models.weight_files import (
    INDEX,
    SINGLE,
    kind_of_weights,
    named_files,
    own_weights,
    require_no_link_out,
    unrelated_files,
)

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
OF_SHARDS = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}


def own(names: set[str], index: object = None) -> frozenset[str]:
    def read() -> object:
        assert INDEX in names, "an index that is not there is not read"
        return index

    return own_weights(names, read, "o/m")


@pytest.mark.parametrize(
    "stray",
    [
        SINGLE,
        "adapter_model.safetensors",
        "adapter_config.json",
        "consolidated.safetensors",
        "consolidated.safetensors.index.json",
        "model.fp16.safetensors",
        "checkpoint-500/model.safetensors",
        "checkpoint-500/config.json",
        "fp8/model-00001-of-00002.safetensors",
        "original/consolidated.00.pth",
        "original/params.json",
        "onnx/model.onnx",
        "epoch/2/state.pt",
    ],
)
def test_what_no_index_names_is_left_out(stray: str) -> None:
    weights = {"checkpoint-500/w.bin", "original/w.pth"}
    names = {INDEX, *SHARDS, "config.json", *weights, stray}
    found = own(names, OF_SHARDS)
    assert found == set(SHARDS)
    assert unrelated_files(names, found) == {*weights, stray}


def test_files_of_a_model_in_folders_without_weights_stay() -> None:
    names = {SINGLE, "config.json", "additional_chat_templates/tool_use.jinja", "1_Pooling/config.json"}
    assert unrelated_files(names, own(names)) == set()


def test_a_single_file_needs_no_index_and_what_lies_beside_it_is_left_out() -> None:
    names = {SINGLE, "second.safetensors", *SHARDS}
    assert own(names) == {SINGLE}
    assert unrelated_files(names, own(names)) == {"second.safetensors", *SHARDS}


def test_numbered_files_are_a_model_if_none_is_missing() -> None:
    assert own(set(SHARDS)) == set(SHARDS)


@pytest.mark.parametrize(
    ("names", "index", "missing"),
    [
        ({INDEX, SHARDS[0]}, OF_SHARDS, SHARDS[1]),
        ({INDEX}, OF_SHARDS, SHARDS[0]),
        ({INDEX, SINGLE}, {"weight_map": {"a": "other.safetensors"}}, "other.safetensors"),
        ({SHARDS[1]}, None, SHARDS[0]),
    ],
)
def test_a_missing_file_is_named(names: set[str], index: object, missing: str) -> None:
    with pytest.raises(CheckpointError, match=f"{missing}.*missing") as raised:
        own(names, index)
    assert raised.value.message.startswith("o/m: ")
    assert raised.value.hint


@pytest.mark.parametrize("index", [None, [], {}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}}])
def test_what_is_no_index_is_refused(index: object) -> None:
    with pytest.raises(CheckpointError, match="weight_map"):
        named_files(index, INDEX)


@pytest.mark.parametrize("name", ["../a.safetensors", "sub/a.safetensors", "a.bin", "a\0.safetensors"])
def test_an_index_names_safetensors_files_beside_it(name: str) -> None:
    with pytest.raises(CheckpointError, match="beside the index"):
        named_files({"weight_map": {"a": name}}, INDEX)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ({"adapter_config.json", "adapter_model.safetensors"}, "an adapter"),
        ({"adapter_model.bin"}, "an adapter"),
        ({"model-Q4_K_M.gguf", "README.md"}, "weights in GGUF only: model-Q4_K_M.gguf"),
        ({"consolidated.safetensors", "params.json"}, "consolidated files only"),
        ({"consolidated.00.pth"}, "consolidated files only"),
        ({"pytorch_model-00001-of-00002.bin", "training_args.bin"}, "pickles only"),
        ({"model.ckpt"}, "pickles only"),
        ({"tf_model.h5"}, "weights for other programs only"),
        ({"onnx/model.onnx"}, "weights for other programs only"),
        ({"fp8/model.safetensors"}, "safetensors files only that no index names"),
        ({"config.json"}, "no weights"),
    ],
)
def test_a_repository_without_weights_of_a_model_is_named_as_what_it_is(names: set[str], kind: str) -> None:
    found, hint = kind_of_weights(names)
    assert found.startswith(kind)
    assert hint
    assert own(names) == frozenset()


@pytest.mark.parametrize("target", ["key", "../key", "folder/config.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    model = tmp_path / "at" / "model"
    (model / "folder").mkdir(parents=True)
    outside = tmp_path / "id_ed25519"
    outside.write_text("secret")
    (model.parent / "key").symlink_to(outside)
    (model / "folder" / "config.json").symlink_to(outside)
    link = model / "LICENSE"
    link.symlink_to(outside if target == "key" else target)
    with pytest.raises(PathEscapesError, match="id_ed25519") as raised:
        require_no_link_out(model, [link])
    assert raised.value.hint


def test_links_inside_the_folder_and_those_of_the_hub_s_cache_are_not(tmp_path: Path) -> None:
    cache = tmp_path / "models--o--m"
    snapshot = cache / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "abc").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    (snapshot / "LICENSE").symlink_to("config.json")
    linked = tmp_path / "model"
    linked.symlink_to(snapshot)
    for folder in (snapshot, linked):
        require_no_link_out(folder, [folder / "config.json", folder / "LICENSE"])


def test_a_link_to_another_repository_of_the_cache_is_a_link_out(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--o--m" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "refs").write_text("x")
    (snapshot / "LICENSE").symlink_to(tmp_path / "refs")
    with pytest.raises(PathEscapesError):
        require_no_link_out(snapshot, [snapshot / "LICENSE"])
