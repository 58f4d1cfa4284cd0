"""A model on the Hub is looked at without its weights: with the real client, from a Hub on this machine."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from orchestrator.cli.main import cli
from orchestrator.errors import CheckpointError, ConfigInvalidError, HubAccessError, HubNotFoundError
from orchestrator.hub.headers import look_at
from tests.support.hub import COMMIT, Hub, serve

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}
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
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
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


def test_a_repository_without_safetensors_has_no_sizes(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    found = look_at(hub.repo)
    assert found.weights is None
    assert found.quantization is None


def test_a_repository_without_a_configuration_is_no_model(hub: Hub) -> None:
    hub.files = {"README.md": b"#"}
    with pytest.raises(HubNotFoundError, match=r"no config\.json"):
        look_at(hub.repo)


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
