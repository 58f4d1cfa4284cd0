"""What a server tells of itself: its profile, its licence, its version, and how it is started."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.app.model_files import counted_shape
from orchestrator.bundle.contents import dns_label, read_contents
from orchestrator.bundle.gateway.config_file import write_config
from orchestrator.bundle.gateway.documents import parse_serve, read_documents
from orchestrator.bundle.gateway.launch import decide_launch
from orchestrator.bundle.gateway.settings import read_settings
from orchestrator.bundle.gateway.variables import Environment
from orchestrator.bundle.targets import metadata, model_card, render_files
from orchestrator.payloads import generate
from orchestrator.serving.server import Places
from tests.support.bundles import CATALOG, LICENSE, contents_of, pinned_recipe, served_recipes, stand_in_artifacts

ENGINE = "llama3-70b-nvfp4-engine"
TINY = "tiny-llama-w4a16-nvfp4"


def document(name: str, file: str, root: Path, *overrides: str) -> Any:  # noqa: ANN401 - a JSON document
    return json.loads(metadata.files(contents_of(name, root, *overrides))[file])


def manifest(name: str, root: Path, *overrides: str) -> dict[str, Any]:
    text = metadata.files(contents_of(name, root, *overrides))["model_manifest.yaml"]
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


@pytest.mark.parametrize("name", served_recipes())
def test_the_gateway_reads_what_every_recipe_writes(name: str, tmp_path: Path) -> None:
    contents = contents_of(name, tmp_path)
    for file, text in metadata.files(contents).items():
        (tmp_path / file).write_text(text)
    found = read_documents(tmp_path)
    assert found.serve == parse_serve((tmp_path / "serve.json").read_text(), "serve.json")
    assert found.serve.recipe == name
    assert set(json.loads(found.metadata)) == {
        "assetInfo", "licenseInfo", "modelInfo", "repository_override", "version", "selectedModelProfileId",
    }  # fmt: skip
    assert set(json.loads(found.license)) == {"name", "path", "sha", "size", "url", "type", "content"}
    assert set(json.loads(found.version)) == {"release", "api"}
    assert json.loads(found.metadata)["selectedModelProfileId"] == found.serve.profile.id


@pytest.mark.parametrize("name", served_recipes())
def test_a_manifest_is_what_the_operators_parser_takes(name: str, tmp_path: Path) -> None:
    found = manifest(name, tmp_path)
    assert re.match(r"2\..*\..*", found["schema_version"])
    assert isinstance(found["profile_selection_criteria"], str)
    (profile,) = found["profiles"]
    assert re.fullmatch("[0-9a-f]{64}", profile["id"])
    assert all(isinstance(value, str) for value in profile["tags"].values())
    runtime = CATALOG.image(pinned_recipe(name).image).runtime
    assert profile["tags"]["llm_engine"] == runtime
    files = profile["workspace"]["files"]
    assert all(set(file) == {"uri"} and file["uri"].startswith("file:///opt/nim/model/") for file in files.values())
    assert "config.json" in files


def test_a_profile_is_another_one_for_other_weights_and_the_same_for_the_same(tmp_path: Path) -> None:
    ids = [manifest(TINY, tmp_path / str(run))["profiles"][0]["id"] for run in range(2)]
    other = manifest("tiny-llama-nvfp4", tmp_path)["profiles"][0]["id"]
    assert ids[0] == ids[1] != other


def test_an_engine_lies_in_the_folder_of_its_tokenizer_without_the_weights_it_was_built_from(tmp_path: Path) -> None:
    contents = contents_of(ENGINE, tmp_path)
    assert {"config.json", "tokenizer.json", "trtllm_engine/config.json", "trtllm_engine/rank0.engine"} <= set(
        contents.model_files
    )
    assert not [path for path in contents.model_files if "safetensors" in path]
    serve = parse_serve(metadata.files(contents)["serve.json"], "serve.json")
    assert serve.engine == "trtllm_engine"
    assert serve.limits.tensor_parallel_size == 1
    assert serve.limits.max_seq_len is not None


def test_a_checkpoint_is_limited_by_the_length_it_was_trained_for_unless_longer_contexts_are_allowed(
    tmp_path: Path,
) -> None:
    serve = document(TINY, "serve.json", tmp_path)
    assert serve["limits"] == {
        "tensor_parallel_size": None, "pipeline_parallel_size": None, "max_seq_len": 2048, "max_batch_size": None,
    }  # fmt: skip
    longer = contents_of(TINY, tmp_path, "serve.environment.TLLM_ALLOW_LONG_MAX_MODEL_LEN='1'")
    assert longer.limits.max_seq_len is None


@pytest.mark.parametrize("name", served_recipes())
def test_no_option_is_said_twice_and_none_that_the_server_does_not_know(name: str, tmp_path: Path) -> None:
    contents = contents_of(name, tmp_path)
    serve = parse_serve(metadata.files(contents)["serve.json"], "serve.json")
    said = [word for word in serve.arguments if word.startswith("--")]
    assert len(said) == len(set(said))
    assert set(said) <= {flag for option in serve.options for flag in option.flags}
    assert not {"--tokenizer", "--host", "--port", "--config", "--served_model_name", "--served-model-name"} & set(said)
    keys = YAML(typ="safe", pure=True).load(contents.config) or {}
    assert not {flag.removeprefix("--") for flag in said} & set(keys)


def test_a_draft_is_where_the_configuration_says(tmp_path: Path) -> None:
    contents = contents_of("llama3-70b-nvfp4-published-eagle3", tmp_path)
    assert "draft/config.json" in contents.model_files
    assert 'speculative_model_dir: "/opt/nim/model/draft"' in contents.config


def test_the_licence_is_that_of_the_model_with_its_own_text(tmp_path: Path) -> None:
    found = document(ENGINE, "license.json", tmp_path)
    assert found["name"] == "llama3.3"
    assert found["content"] == LICENSE
    assert found["sha"] == hashlib.sha1(LICENSE.encode(), usedforsecurity=False).hexdigest()
    assert found["size"] == len(LICENSE)
    assert re.fullmatch(r"https://huggingface\.co/meta-llama/[^/]+/blob/[0-9a-f]{40}/LICENSE", found["url"])


def test_a_model_without_a_licence_file_says_so_and_invents_nothing(tmp_path: Path) -> None:
    found = document(TINY, "license.json", tmp_path)
    assert (found["name"], found["path"], found["url"]) == ("none", "", "")
    assert "made from a seed" in found["content"]


def test_a_licence_without_a_file_is_where_the_model_is_published(tmp_path: Path) -> None:
    recipe = pinned_recipe(ENGINE)
    artifacts = stand_in_artifacts(recipe, tmp_path)
    for step in ("download", "quantize"):
        kept = tuple(file for file in artifacts[step].files if file.path != "LICENSE")
        artifacts[step] = replace(artifacts[step], files=kept)
    found = read_contents(recipe, CATALOG, artifacts, images={}).license
    assert re.fullmatch(r"https://huggingface\.co/meta-llama/[^/]+/tree/[0-9a-f]{40}", found.url)
    assert (found.path, found.name) == ("", "llama3.3")
    assert "is published under the licence `llama3.3`" in found.text


def test_two_renders_of_one_build_are_the_same_bytes(tmp_path: Path) -> None:
    first, second = (render_files(contents_of(ENGINE, tmp_path / run)) for run in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("phi-4.5_x", "phi-4-5-x"),
        ("3d-model", "model-3d-model"),
        ("a" * 64, "a" * 33 + "-ffe054"),
        ("x" * 39 + "-" + "y" * 20, None),
    ],
)
def test_names_are_such_that_a_service_may_have_them(name: str, label: str | None) -> None:
    found = dns_label(name)
    assert label in (None, found)
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(found) <= 40


@pytest.mark.parametrize("name", served_recipes())
def test_what_is_written_starts_the_server_that_the_recipe_describes(name: str, tmp_path: Path) -> None:
    contents = contents_of(name, tmp_path / "artifacts")
    for path in contents.model_files:
        (tmp_path / "store" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / path).touch()
        if path.endswith("cache_entry.json"):
            (tmp_path / "store" / path).write_text('{"path": "engines/model/sizes"}')
    written = parse_serve(metadata.files(contents)["serve.json"], "serve.json")
    (tmp_path / "trtllm_config.yaml").write_text(contents.config)
    serve = replace(written, config=str(tmp_path / "trtllm_config.yaml") if written.config else "")
    environment = Environment({"NIM_MODEL_PATH": str(tmp_path / "store")})
    launch = decide_launch(serve, read_settings(environment, serve), environment, ())
    assert (launch.config is None) == (contents.runtime.CONFIG is None)
    command = launch.command(write_config(launch.config, tmp_path) if launch.config else None)
    recipe, shape = contents.recipe, contents.shape
    store = str(tmp_path / "store")
    places = Places(
        checkpoint=store,
        engine=f"{store}/{contents.runtime.ENGINE_FOLDER}" if recipe.backend == "tensorrt" else None,
        file=lambda _: command[-1],
        draft=f"{store}/draft",
        host="127.0.0.1",
        port=8001,
    )
    expected = [str(word) for word in contents.runtime.command(shape.server, places)]
    assert without_name(command) == without_name(expected)
    if launch.config is None:
        return
    config = YAML(typ="safe", pure=True).load(Path(command[-1]).read_text())
    assert shape.draft is None or config["speculative_config"]["speculative_model_dir"] == f"{store}/draft"


def without_name(command: Sequence[str]) -> list[str]:
    """Leave out the name that clients use and a folder of caches, which the gateway gives; options have no order."""
    words = list(command)
    for name in ("--served_model_name", "--served-model-name", "--cache-dir"):
        if name in words:
            place = words.index(name)
            del words[place : place + 2]
    return sorted(words)


def test_the_model_card_says_what_the_files_are_and_not_what_the_recipe_says(tmp_path: Path) -> None:
    generate.main(["--output", str(tmp_path / "model"), "--hidden-size", "64", "--layers", "1", "--vocab-size", "261"])
    counted = counted_shape(tmp_path / "model")
    assert counted is not None
    contents = contents_of("llama3-70b-nvfp4", tmp_path)
    assert "70.6 billion parameters" in model_card.files(contents)["MODEL_CARD.md"]
    card = model_card.files(replace(contents, counted=counted))["MODEL_CARD.md"]
    assert f"{counted.parameters / 1e9:.3g} billion parameters" in card
    assert "70.6 billion" not in card


def test_what_is_no_language_model_is_not_counted(tmp_path: Path) -> None:
    assert counted_shape(tmp_path) is None
