"""`new` for a model of the Hub, against a Hub on this machine: what it answers stands in the recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.model import HubModel, Recipe
from tests.support.command_line import orchestrator, variables_of
from tests.support.hub import COMMIT, Hub, serve

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}
WEIGHTS = json.dumps({"w": {"dtype": "BF16", "shape": [40, 25], "data_offsets": [0, 2000]}}).encode()
QUANTIZED = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}}


@dataclass
class Project:
    """A project's folder, and a Hub that it asks."""

    root: Path
    hub: Hub
    log: str = ""

    def new(self, *arguments: str) -> int:
        environment = variables_of(self.root, self.hub.endpoint)
        done = orchestrator("--project", self.root, "new", *arguments, environment=environment, folder=self.root)
        self.log = done.stdout + done.stderr
        assert "Traceback" not in self.log, self.log
        return done.returncode

    def files(self) -> list[str]:
        return sorted(file.name for file in (self.root / "recipes").glob("*.yaml"))

    def recipe(self, name: str) -> Recipe:
        return RecipeBook(self.root / "recipes").load(name).recipe

    def model(self, name: str) -> HubModel:
        found = self.recipe(name).model
        assert isinstance(found, HubModel)
        return found


def files(config: dict[str, Any], **more: Any) -> dict[str, bytes]:  # noqa: ANN401 - whatever JSON can say
    documents = {f"{name}.json": json.dumps(content).encode() for name, content in {"config": config, **more}.items()}
    return {**documents, "model.safetensors": len(WEIGHTS).to_bytes(8, "little") + WEIGHTS + bytes(2000)}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    shutil.copytree(ROOT / "recipes" / "bases", tmp_path / "recipes" / "bases")
    with serve(Hub(files=files(CONFIG), card={"license": "apache-2.0"})) as hub:
        yield Project(tmp_path, hub)


def test_a_recipe_says_what_the_hub_says(project: Project) -> None:
    assert project.new("owner/model") == 0, project.log
    assert project.model("model-nvfp4") == HubModel(
        repo="owner/model",
        revision=COMMIT,
        license="apache-2.0",
        architecture="LlamaForCausalLM",
        parameters=1000,
    )
    assert "model-nvfp4 on dgx-spark: fits" in project.log
    assert "next:" in project.log
    text = (project.root / "recipes" / "model-nvfp4.yaml").read_text(encoding="utf-8")
    assert f'revision: "{COMMIT}" # the commit of `main` when this recipe was written' in text
    assert sorted(project.hub.fetched) == ["config.json", "model.safetensors"], "each once, for a header"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"license": "other", "license_name": "nvidia-open-model-license"}, "nvidia-open-model-license"),
        ({"license": "llama3.1"}, "llama3.1"),
        ({}, "unknown"),
    ],
)
def test_the_licence_is_that_of_the_card(project: Project, card: dict[str, str], expected: str) -> None:
    project.hub.card = card
    assert project.new("https://huggingface.co/owner/model") == 0, project.log
    assert project.model("model-nvfp4").license == expected


def test_a_branch_can_be_named(project: Project) -> None:
    project.hub.branches["v2"] = "f" * 40
    assert project.new("owner/model", "--revision", "v2") == 0, project.log
    assert project.model("model-nvfp4").revision == "f" * 40


def test_what_is_published_quantized_is_served_as_it_is(project: Project) -> None:
    project.hub.files = files(CONFIG, hf_quant_config=QUANTIZED)
    entries = {
        "w.weight": {"dtype": "F8_E4M3", "shape": [40, 25], "data_offsets": [0, 1000]},
        "w.weight_scale": {"dtype": "F32", "shape": [40], "data_offsets": [1000, 1160]},
    }
    header = json.dumps(entries).encode()
    project.hub.files["model.safetensors"] = len(header).to_bytes(8, "little") + header + bytes(1160)
    assert project.new("owner/model") == 0, project.log
    recipe = project.recipe("model-fp8")
    assert (recipe.quantization.format, recipe.quantization.method) == ("fp8", "none")
    assert recipe.model.parameters == 1000, "scales are not counted"


def test_a_gated_model_gets_a_recipe_from_what_everybody_may_see(project: Project) -> None:
    project.hub.gated = True
    project.hub.card = {"license": "llama3.1"}
    assert project.new("owner/model") == 0, project.log
    model = project.model("model-nvfp4")
    assert (model.gated, model.license, model.parameters) == (True, "llama3.1", 1000)
    assert model.architecture == "LlamaForCausalLM"
    text = (project.root / "recipes" / "model-nvfp4.yaml").read_text(encoding="utf-8")
    assert "its owner must grant you access" in text
    assert "its config.json is gated" in text


def test_sizes_of_a_gated_model_come_from_the_catalogue_where_it_has_them(project: Project) -> None:
    project.hub.gated = True
    project.hub.repo = "meta-llama/Llama-3.1-8B-Instruct"
    assert project.new(project.hub.repo) == 0, project.log
    assert "tokens/s predicted" in (project.root / "recipes" / "llama-3.1-8b-instruct-nvfp4.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (files({**CONFIG, "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}), "HUB_ACCESS"),
        (files(CONFIG, hf_quant_config=QUANTIZED), "HUB_ACCESS"),
        (files({"model_type": "llama"}), "HUB_ACCESS"),
        (files({"architectures": ["BertForMaskedLM"]}), "ARCHITECTURE_UNKNOWN"),
    ],
)
def test_a_gated_model_of_which_too_little_is_shown_is_one_clear_error(
    project: Project, content: dict[str, bytes], code: str
) -> None:
    project.hub.gated = True
    project.hub.files = content
    assert project.new("owner/model") in (3, 6)
    assert project.log.startswith(f"error[{code}]")
    assert project.files() == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (files({**CONFIG, "architectures": ["BertForMaskedLM"]}), "ARCHITECTURE_UNKNOWN"),
        (files({"model_type": "bert"}), "CONFIG_INVALID"),
        ({"config.json": b"{}", "model.gguf": b"GGUF"}, "HUB_NOT_FOUND"),
        ({**files(CONFIG), "config.json": b"<html>"}, "CHECKPOINT_INVALID"),
    ],
)
def test_what_no_recipe_can_be_made_of_is_an_error_and_no_file(
    project: Project, content: dict[str, bytes], code: str
) -> None:
    project.hub.files = content
    assert project.new("owner/model") in (3, 6)
    assert f"error[{code}]" in project.log
    assert project.files() == []


def test_a_model_that_the_hub_does_not_have_is_not_found(project: Project) -> None:
    assert project.new("owner/another") == 6
    assert "error[HUB_NOT_FOUND]" in project.log


def test_a_model_that_brings_code_says_what_to_read(project: Project) -> None:
    project.hub.files = files({**CONFIG, "auto_map": {"AutoConfig": "configuration.Own"}})
    assert project.new("owner/model") == 0, project.log
    assert project.model("model-nvfp4").trust is None
    text = (project.root / "recipes" / "model-nvfp4.yaml").read_text(encoding="utf-8")
    assert "is not run until you trust one commit" in text
