"""Does what runs in an image work with the transformers that the image has, as it does with the newest?

The image's own libraries are in an environment without torch. What runs a model borrows the torch of the oracle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.payloads import generate
from orchestrator.quantization.files import read_json, write_json
from tests.support.environments import ROOT, image_python
from tests.support.families import FAMILIES, SIZES
from tests.support.oracle import Environment, find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

_SCRIPT = Path(__file__).with_name("image_run.py")
_UNKNOWN = ["Nemotron-H", "Nemotron-H, latent experts"]
"""Families that came into transformers after 4.57: images bring code of their own for them."""
_KNOWN = [name for name in FAMILIES if name not in _UNKNOWN]


@dataclass(frozen=True)
class Image:
    """The libraries of an image: alone, and in front of the oracle's torch."""

    alone: Environment

    def run(self, asked: str, *arguments: Path) -> Any:  # noqa: ANN401 - JSON
        return _answer(self.alone.run(_SCRIPT, asked, *arguments))

    def with_torch(self, asked: str, *arguments: Path) -> Any:  # noqa: ANN401 - JSON
        where = self.alone.run("-c", "import transformers; print(transformers.__file__)").strip().splitlines()[-1]
        path = f"{Path(where).parents[1]}:{ROOT}"
        return _answer(find_environment().run(_SCRIPT, asked, *arguments, PYTHONPATH=path))


def _answer(printed: str) -> Any:  # noqa: ANN401 - JSON
    said = json.loads(printed.rpartition("RESULT ")[2])
    assert said["version"].startswith("4.57.")
    return said["answer"]


def _newest(asked: str, *arguments: Path) -> Any:  # noqa: ANN401 - JSON
    return json.loads(find_environment().run(_SCRIPT, asked, *arguments).rpartition("RESULT ")[2])["answer"]


@pytest.fixture(scope="session")
def image() -> Image:
    return Image(Environment(image_python()))


@pytest.fixture(scope="session")
def models(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family that the image's transformers knows; some tensors of each are stored in FP32."""
    folder = tmp_path_factory.mktemp("image")
    assert image.run("make", folder) == _UNKNOWN
    return folder


@pytest.fixture(scope="session")
def walked(image: Image, models: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = image.with_torch("walk", models)
    return found


@pytest.mark.parametrize("family", _KNOWN)
def test_an_original_says_in_an_image_what_its_transformers_says(
    walked: dict[str, dict[str, float]], family: str
) -> None:
    assert walked[family]["ours"] == pytest.approx(walked[family]["theirs"], rel=1e-6)


def test_attention_that_calls_torch_itself_gets_the_scales_of_the_newest_transformers(
    image: Image, models: Path, tmp_path: Path
) -> None:
    source = models / "Qwen2-MoE"
    newest = _newest("scales", source, tmp_path / "newest")
    assert len(newest) == 2 * SIZES["num_hidden_layers"]
    assert image.with_torch("scales", source, tmp_path / "image") == pytest.approx(newest, rel=1e-2)


def test_text_becomes_the_same_tokens_in_an_image_as_with_the_newest_transformers(image: Image, tmp_path: Path) -> None:
    generate.main(["--output", str(tmp_path / "model"), "--layers", "1", "--vocab-size", "320"])
    text = tmp_path / "text.jsonl"
    texts = ["A short one.", "Grüße aus 東京, " * 9, "x"]
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    newest = _newest("tokens", tmp_path / "model", text)
    found = image.run("tokens", tmp_path / "model", text)
    assert found == newest
    assert [len(rows) for rows in found["tokens"]] == [2, 1]


def test_a_model_that_is_newer_than_an_image_is_refused_by_the_version(image: Image, tmp_path: Path) -> None:
    fields = {key: value for key, value in FAMILIES["Nemotron-H"].config.items() if key != "class"}
    config = {**SIZES, **fields, "architectures": ["NemotronHForCausalLM"], "model_type": "nemotron_h"}
    write_json(tmp_path / "config.json", config)
    assert "transformers 4.57" in (said := image.with_torch("refusal", tmp_path))
    assert "cannot build this model" in said


@pytest.mark.parametrize(
    ("rotation", "said"),
    [
        ({"rope_type": "default", "rope_theta": 500_000.0}, "which transformers 4.57"),
        ({"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}, "which transformers 4.57"),
        ({"rope_type": "default", "rope_theta": 10_000.0}, "built"),
    ],
)
def test_a_rotation_that_an_image_would_pass_over_is_refused(
    image: Image, models: Path, tmp_path: Path, rotation: dict[str, Any], said: str
) -> None:
    config = {key: value for key, value in read_json(models / "Llama" / "config.json").items() if "rope" not in key}
    write_json(tmp_path / "config.json", {**config, "rope_parameters": rotation})
    assert said in image.with_torch("refusal", tmp_path)
