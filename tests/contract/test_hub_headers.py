"""A model on the Hub is looked at without its weights: with the real client, from a Hub on this machine."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from orchestrator.cli.main import cli
from orchestrator.errors import (
    CheckpointError,
    ConfigInvalidError,
    HubAccessError,
    HubNotFoundError,
    ModelUnsupportedError,
)
from orchestrator.hub.headers import look_at
from tests.support.hub import COMMIT, Hub, serve

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}
QUANTIZATION = {"quantization": {"quant_algo": "FP8"}}


def weights(size: int, tensors: int = 1, first: str = "w") -> bytes:
    entries = {
        f"{first}{n}": {"dtype": "U8", "shape": [size], "data_offsets": [n * size, n * size + size]}
        for n in range(tensors)
    }
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * (size * tensors)


FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "hf_quant_config.json": json.dumps(QUANTIZATION).encode(),
    "model-00001-of-00002.safetensors": weights(1000, 3000),
    "model-00002-of-00002.safetensors": weights(500, first="v"),
    "original/model.safetensors": weights(7),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("ORCHESTRATOR_STORE", str(tmp_path / "store"))
    with serve(Hub(files=dict(FILES))) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", served.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield served


def test_configurations_and_headers_are_read(hub: Hub) -> None:
    found = look_at(hub.repo)
    assert found.commit == COMMIT
    assert found.config == CONFIG
    assert found.quantization == QUANTIZATION
    assert sum(tensor.stored or 0 for tensor in found.weights or ()) == 3_000_500


def test_only_the_beginning_of_a_file_is_requested(hub: Hub) -> None:
    hub.files["model-00001-of-00002.safetensors"] = weights(1000, 20)
    hub.files["model-00002-of-00002.safetensors"] = weights(10_000_000, first="v")
    look_at(hub.repo)
    assert sum(hub.served.values()) < 200_000
    hub.files["model-00001-of-00002.safetensors"] = weights(1000, 3000)
    found = look_at(hub.repo)
    assert sum(tensor.stored or 0 for tensor in found.weights or ()) == 13_000_000
    assert hub.served["model-00001-of-00002.safetensors"] < 500_000, "a longer header has a request of its own"


def test_a_repository_without_safetensors_has_no_sizes(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    found = look_at(hub.repo)
    assert found.weights is None
    assert found.quantization is None


def test_a_repository_without_a_configuration_is_no_model(hub: Hub) -> None:
    hub.files = {"README.md": b"#"}
    with pytest.raises(HubNotFoundError, match=r"no config\.json") as caught:
        look_at(hub.repo)
    assert "the model itself" in caught.value.hint


def test_a_repository_of_gguf_files_names_the_form_that_is_served(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "model.gguf": b"GGUF"}
    with pytest.raises(ModelUnsupportedError, match="GGUF files only") as caught:
        look_at(hub.repo)
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors"])
def test_a_file_that_is_not_what_its_name_says_is_an_error(hub: Hub, name: str) -> None:
    hub.files[name] = b"\xff" * 100
    with pytest.raises(CheckpointError, match=name):
        look_at(hub.repo)


def test_the_hub_s_refusals_are_ours(hub: Hub) -> None:
    with pytest.raises(HubNotFoundError):
        look_at("nobody/nothing")
    hub.gated = True
    with pytest.raises(HubAccessError):
        look_at(hub.repo)


def test_an_estimate_counts_what_the_headers_say(hub: Hub) -> None:
    sizes = {
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 320,
    }
    hub.files["config.json"] = json.dumps({**CONFIG, **sizes}).encode()
    result = CliRunner().invoke(cli, ["estimate", "--repo", hub.repo, "--online", "--json"])
    assert result.exception is None, result.output
    found = json.loads(result.stdout)
    assert found["weights_bytes"] == 3_000_500
    assert "hf_quant_config.json of owner/model@0123456789ab" in found["basis"][0]
    refused = CliRunner().invoke(cli, ["estimate", "--repo", hub.repo, "--online", "--format", "nvfp4"])
    assert isinstance(refused.exception, ConfigInvalidError)


TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "vocab_size": 320,
}
RECIPE = f"""
schema_version: 1
name: there
description: A model that the catalogue does not know.
model:
  repo: owner/model
  revision: "{COMMIT}"
  license: mit
  architecture: LlamaForCausalLM
  parameters: 1000000
quantization:
  format: bf16
  method: none
target: dgx-spark
image: tensorrt-llm-1.3.0rc13
backend: pytorch
"""


def checkpoint(tensors: dict[str, list[int]]) -> bytes:
    entries, end = {}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(end)


@dataclass
class Commands:
    """Commands on a store of their own, with a Hub on this machine."""

    hub: Hub
    folder: Path

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli, ["--store", str(self.folder / "store"), *arguments])

    def plan(self) -> Any:  # noqa: ANN401 - any JSON
        recipe = self.folder / "there.yaml"
        recipe.write_text(RECIPE, encoding="utf-8")
        return self("plan", str(recipe), "--json")


@pytest.fixture
def commands(hub: Hub, tmp_path: Path) -> Commands:
    hub.files = {
        "config.json": json.dumps(TINY).encode(),
        "model.safetensors": checkpoint(
            {"model.embed_tokens.weight": [320, 64], "model.layers.0.up.weight": [1000, 64]}
        ),
    }
    return Commands(hub, tmp_path)


def weights_of(result: Result) -> tuple[float, str]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    figure = json.loads(result.stdout)["estimate"]["weights"]
    return figure["value"], figure["basis"]


def test_a_plan_counts_what_the_headers_say_and_asks_once(commands: Commands) -> None:
    value, basis = weights_of(commands.plan())
    assert value == 2 * 64 * 1320
    assert "by the headers of its files" in basis
    commands.hub.files = {}
    assert weights_of(commands.plan()) == (value, basis)


def test_a_damaged_copy_of_the_headers_is_read_again(commands: Commands) -> None:
    first = weights_of(commands.plan())
    (copy,) = (commands.folder / "store" / "models").iterdir()
    copy.write_text(copy.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert weights_of(commands.plan()) == first
    assert json.loads(copy.read_text(encoding="utf-8"))


def test_a_plan_without_the_hub_counts_parameters_and_says_so(commands: Commands) -> None:
    commands.hub.gated = True
    value, basis = weights_of(commands.plan())
    assert value == 2_000_000
    assert "reads them where it reaches the Hub" in basis


def test_a_header_that_lies_is_found_by_the_plan(commands: Commands) -> None:
    commands.hub.files["model.safetensors"] += b"more"
    assert isinstance(commands.plan().exception, CheckpointError)


def test_a_model_that_the_catalogue_does_not_know_is_compared_by_its_headers(commands: Commands) -> None:
    result = commands("compare", commands.hub.repo, "--json")
    assert json.loads(result.stdout)["parameters"] == 64 * 1320
    fit = {row["format"]: row["fits"] for row in json.loads(result.stdout)["formats"]}
    assert [name for name, fits in fit.items() if not fits] == ["mxfp4"], "that format is gpt-oss's alone"
