"""`new` from what lies on this machine: recipes of known classes work at once, and nothing is written for others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestrator.errors import CheckpointError
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.model import LocalModel, Recipe
from tests.support.architectures import with_type
from tests.unit.cli.conftest import Shell
from tests.unit.planner.byte_configs import (
    GEMMA3,
    LLAMA,
    MISTRAL_SMALL,
    MIXTRAL,
    NEMOTRON,
    PHI3,
    QWEN2,
    QWEN3_NEXT,
    Config,
)

MOE: Config = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "hidden_size": 2048}
KNOWN: Mapping[str, Config] = {
    "Llama-8B": LLAMA,
    "Mistral-8B": {**LLAMA, "architectures": ["MistralForCausalLM"]},
    "Mistral-Small": MISTRAL_SMALL,
    "Mixtral": MIXTRAL,
    "Qwen2": QWEN2,
    "Qwen3": {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "head_dim": 128},
    "Qwen3-MoE": {**LLAMA, **MOE, "architectures": ["Qwen3MoeForCausalLM"], "head_dim": 128},
    "Qwen3-Next": QWEN3_NEXT,
    "Gemma3": GEMMA3,
    "Phi3": PHI3,
    "Nemotron-H": NEMOTRON,
}
TINY: Config = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 320,
}
NVFP4 = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}


@pytest.fixture(autouse=True)
def _in_the_project(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shell.project)


def model(folder: Path, config: Config, **beside: Any) -> Path:  # noqa: ANN401 - whatever JSON can say
    """Make a model's folder with its config.json and further JSON files."""
    folder.mkdir(parents=True)
    for name, content in {"config": with_type(config), **beside}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def made(shell: Shell, name: str) -> Recipe:
    return RecipeBook(shell.project / "recipes").load(name).recipe


@pytest.mark.parametrize("name", KNOWN)
def test_a_recipe_of_a_known_class_is_made_valid_and_planned(shell: Shell, tmp_path: Path, name: str) -> None:
    config = KNOWN[name]
    assert shell("new", str(model(tmp_path / name, config))) == 0, shell.err
    recipe = f"{name.lower()}-nvfp4"
    first, _, printed = shell.out.partition("\n\n")
    assert first == f"wrote recipes/{recipe}.yaml"
    assert made(shell, recipe).model.architecture == config["architectures"][0]
    assert shell("validate", recipe) == 0, shell.err
    assert shell("plan", recipe) == 0, shell.err
    assert shell.out == printed


@pytest.mark.parametrize(
    ("architecture", "code"),
    [
        ("BertForMaskedLM", "ARCHITECTURE_UNKNOWN"),  # not a language model
        ("JambaForCausalLM", "MODEL_UNSUPPORTED"),  # its sizes are read, and no version of TensorRT-LLM has it
    ],
)
def test_nothing_is_written_for_a_class_that_is_not_known_or_not_served(
    shell: Shell, tmp_path: Path, architecture: str, code: str
) -> None:
    before = sorted((shell.project / "recipes").iterdir())
    place = model(tmp_path / "other", {**LLAMA, "architectures": [architecture], "head_dim": 128, "sliding_window": 64})
    assert shell("new", str(place)) in (3, 4)
    assert f"error[{code}]" in shell.err
    assert sorted((shell.project / "recipes").iterdir()) == before


@pytest.mark.parametrize(
    ("architecture", "image"),
    [
        ("FalconForCausalLM", "tensorrt-llm-1.3.0rc13"),  # in no list, so that of the base
        ("Gemma4ForConditionalGeneration", "tensorrt-llm-1.3.0rc17"),  # rc15 has it with an older transformers
        ("Starcoder2ForCausalLM", "tensorrt-llm-1.3.0rc13"),
    ],
)
def test_a_recipe_gets_an_image_whose_lists_have_the_model_if_there_is_one(
    shell: Shell, tmp_path: Path, architecture: str, image: str
) -> None:
    model_type = architecture.partition("For")[0].lower()
    config = {**LLAMA, "architectures": [architecture], "model_type": model_type, "head_dim": 128, "sliding_window": 64}
    assert shell("new", str(model(tmp_path / "other", config))) == 0, shell.err
    assert made(shell, "other-nvfp4").image == image
    assert ("MODEL_UNLISTED" in shell.out) == (model_type == "falcon")


def test_real_configurations_make_recipes_too(shell: Shell) -> None:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "model_configs"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the configurations of published models are not here")
    for name, form in {
        "Qwen--Qwen3-8B": "nvfp4",
        "openai--gpt-oss-20b": "mxfp4",
        "mistralai--Mixtral-8x7B-v0.1": "nvfp4",
    }.items():
        assert shell("new", str(folder / f"{name}_config.json"), "--force", "-o", "recipes/real.yaml") == 0, shell.err
        assert made(shell, "real").quantization.format == form
        assert shell("validate", "real") == 0


def test_parameters_of_a_folder_are_counted_in_its_headers(shell: Shell, tmp_path: Path) -> None:
    place = model(tmp_path / "tiny", TINY)
    save_file({"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float32)}, place / "model.safetensors")
    assert shell("new", str(place)) == 0, shell.err
    found = made(shell, "tiny-nvfp4").model
    assert isinstance(found, LocalModel)
    assert found.parameters == 22
    assert Path(found.path) == place
    assert "as counted by the headers of its files" in (shell.project / "recipes" / "tiny-nvfp4.yaml").read_text()


def test_a_plan_of_a_folder_counts_what_its_headers_list(shell: Shell, tmp_path: Path) -> None:
    place = model(tmp_path / "tiny", TINY)
    assert shell("new", str(place), "--format", "bf16") == 0, shell.err
    by_parameters = shell.json("plan", "tiny-bf16")["estimate"]["weights"]
    save_file({"model.layers.0.mlp.up_proj.weight": np.zeros((3, 5), np.float32)}, place / "model.safetensors")
    weights = shell.json("plan", "tiny-bf16")["estimate"]["weights"]
    assert weights["value"] == 60 != by_parameters["value"]
    assert weights["basis"].endswith("by the headers of its files")
    (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-1])
    assert shell("plan", "tiny-bf16") == CheckpointError.exit_status
    assert "the header describes 60 bytes of tensors, but the file has 59" in shell.err


def test_a_folder_of_the_project_is_named_within_it(shell: Shell) -> None:
    model(shell.project / "models" / "tiny", TINY)
    assert shell("new", "models/tiny") == 0, shell.err
    assert getattr(made(shell, "tiny-nvfp4").model, "path", None) == "models/tiny"


@pytest.mark.parametrize(
    ("beside", "config", "expected"),
    [
        ({"hf_quant_config": NVFP4}, TINY, "nvfp4"),
        ({}, {**TINY, "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": []}}, "fp8"),
        (
            {},
            {
                **TINY,
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {
                        "group_0": {
                            "targets": ["Linear"],
                            "weights": {"type": "float", "num_bits": 4, "group_size": 16},
                            "input_activations": {"num_bits": 4},
                        }
                    },
                },
            },
            "nvfp4",
        ),
    ],
)
def test_what_is_published_quantized_stays_as_it_is(
    shell: Shell, tmp_path: Path, beside: dict[str, Any], config: Config, expected: str
) -> None:
    assert shell("new", str(model(tmp_path / "done-NVFP4", config, **beside))) == 0, shell.err
    quantization = made(shell, f"done-{expected}").quantization
    assert (quantization.format, quantization.method) == (expected, "none")


@pytest.mark.parametrize("asked", ["fp8", "bf16", "w4a16_nvfp4"])
def test_what_is_published_quantized_is_not_quantized_again(shell: Shell, tmp_path: Path, asked: str) -> None:
    place = model(tmp_path / "done", TINY, hf_quant_config=NVFP4)
    assert shell("new", str(place), "--format", asked) == 4
    assert "error[REQUANTIZE]" in shell.err
    assert "is published in nvfp4" in shell.err


BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def test_fp8_with_block_scales_is_served_where_an_image_runs_it_and_else_decoded(shell: Shell, tmp_path: Path) -> None:
    place = model(tmp_path / "blocks", {**LLAMA, "quantization_config": BLOCKS})
    assert shell("new", str(place), "--target", "h200") == 0, shell.err
    assert made(shell, "blocks-fp8").quantization.method == "none"
    assert shell("new", str(place)) == 0, shell.err
    quantization = made(shell, "blocks-nvfp4").quantization
    assert (quantization.format, quantization.method) == ("nvfp4", "onepass")
    assert "Not fp8: the FP8 weights have block scales" in (shell.project / "recipes/blocks-nvfp4.yaml").read_text()
    assert shell("plan", "blocks-nvfp4") == 0, shell.err


@pytest.mark.parametrize(("asked", "code"), [("w4a16_nvfp4", 0), ("fp8", 0), ("bf16", 4)])
def test_block_scales_become_the_format_that_is_asked_for(shell: Shell, tmp_path: Path, asked: str, code: int) -> None:
    place = model(tmp_path / "blocks", {**LLAMA, "quantization_config": BLOCKS})
    assert shell("new", str(place), "--format", asked) == code, shell.err
    if code == 0:
        assert made(shell, f"blocks-{asked.replace('_', '-')}").quantization.method == "onepass"


def test_block_scales_that_our_quantizer_does_not_decode_are_refused(shell: Shell, tmp_path: Path) -> None:
    other = {**BLOCKS, "weight_block_size": [64, 64]}
    place = model(tmp_path / "blocks", {**LLAMA, "quantization_config": other})
    assert shell("new", str(place)) != 0
    assert "weight_block_size" in shell.err


@pytest.mark.parametrize(
    ("target", "form", "says"),
    [("dgx-spark", "nvfp4", "usual choice on Blackwell"), ("h200", "fp8", "usual choice on this GPU")],
)
def test_the_format_is_what_compare_would_pick_and_the_file_says_why(
    shell: Shell, tmp_path: Path, target: str, form: str, says: str
) -> None:
    assert shell("new", str(model(tmp_path / "one", LLAMA)), "--target", target) == 0, shell.err
    text = (shell.project / "recipes" / f"one-{form}.yaml").read_text(encoding="utf-8")
    assert says in text
    assert made(shell, f"one-{form}").target == target


def test_a_format_that_nothing_runs_is_passed_over_with_the_reason(shell: Shell, tmp_path: Path) -> None:
    images = shell.project / "docker" / "images.yaml"
    images.write_text(images.read_text().replace("sm_121: [bf16, fp8, nvfp4,", "sm_121: [bf16, fp8,"))
    images.write_text(images.read_text().replace("sm_121: [bf16, fp8, nvfp4]", "sm_121: [bf16, fp8]"))
    assert shell("new", str(model(tmp_path / "one", LLAMA))) == 0, shell.err
    assert made(shell, "one-fp8").quantization.format == "fp8"
    assert "Not nvfp4: image" in (shell.project / "recipes" / "one-fp8.yaml").read_text(encoding="utf-8")


def test_a_format_can_be_asked_for(shell: Shell, tmp_path: Path) -> None:
    place = str(model(tmp_path / "one", LLAMA))
    for form in ("bf16", "fp8", "w4a16_nvfp4"):
        assert shell("new", place, "--format", form) == 0, shell.err
        assert made(shell, f"one-{form.replace('_', '-')}").quantization.format == form
        assert shell("validate", f"one-{form.replace('_', '-')}") == 0, shell.out
    assert shell("new", place, "--format", "mxfp4") == 4
    assert "gpt-oss" in shell.err


def test_a_model_that_is_too_large_is_refused_as_its_plan_would_be(shell: Shell, tmp_path: Path) -> None:
    huge = {**LLAMA, "hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 126}
    assert shell("new", str(model(tmp_path / "huge", huge))) == 4
    assert "error[DOES_NOT_FIT]" in shell.err


def test_a_file_that_is_there_is_not_written_over_without_force(shell: Shell, tmp_path: Path) -> None:
    place = str(model(tmp_path / "one", LLAMA))
    file = shell.project / "recipes" / "one-nvfp4.yaml"
    file.write_text("mine", encoding="utf-8")
    assert shell.error("new", place)["code"] == "RECIPE_THERE"
    assert file.read_text(encoding="utf-8") == "mine"
    assert shell("new", place, "--force") == 0, shell.err
    assert shell("validate", "one-nvfp4") == 0


def test_a_program_gets_the_file_and_the_plan(shell: Shell, tmp_path: Path) -> None:
    found = shell.json("new", str(model(tmp_path / "one", LLAMA)))
    assert found.pop("file") == "recipes/one-nvfp4.yaml"
    assert found == shell.json("plan", "one-nvfp4")


def test_the_file_can_be_named(shell: Shell, tmp_path: Path) -> None:
    place = str(model(tmp_path / "one", LLAMA))
    assert shell("new", place, "-o", "recipes/mine.yaml") == 0, shell.err
    assert made(shell, "mine").name == "mine"
    assert shell("new", place, "-o", "recipes/mine.yaml") == 3
    for wrong in ("recipes/Mine.yaml", "recipes/mine.yml", "nowhere/mine.yaml"):
        assert shell("new", place, "-o", wrong) == 2


def test_without_a_folder_of_recipes_it_is_written_where_one_stands(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    place = model(here / "Some Model_v2-FP8", LLAMA)
    monkeypatch.chdir(here)
    assert shell("new", place.name, "--format", "fp8") == 0, shell.err
    assert (here / "some-model_v2-fp8.yaml").is_file()


@pytest.mark.parametrize("what", ["nothing", "./nothing", "a/b/c", "../x/config.json", ""])
def test_what_is_no_model_is_an_error(shell: Shell, what: str) -> None:
    assert shell.error("new", what)["code"] == "CONFIG_INVALID"


def test_several_gpus_serve_one_model(shell: Shell, tmp_path: Path) -> None:
    assert shell("new", str(model(tmp_path / "one", LLAMA)), "--target", "dgx-spark-x2") == 0, shell.err
    assert made(shell, "one-nvfp4").serve.tensor_parallel_size == 2
