"""Do smoothed models calculate what their originals do?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.quality import examine
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(900)]

SMOOTHED = {
    "Llama": ["input_layernorm", "post_attention_layernorm"],
    "DeepSeek-V3": ["input_layernorm", "post_attention_layernorm"],
    "GPT-NeoX": ["input_layernorm", "post_attention_layernorm"],
    "Cohere 2": ["input_layernorm"],
    "Llama 4": ["input_layernorm", "post_attention_layernorm"],
}
"""The norms of the second layer that are smoothed."""
ADDING_1 = "Gemma 3"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smoothing")
    find_environment().run(Path(__file__).parent / "smoothing_run.py", folder, *SMOOTHED, ADDING_1)
    return folder


@pytest.fixture(scope="session")
def results(made: Path) -> Any:  # noqa: ANN401 - as the script writes it
    return read_json(made / "results.json")


@pytest.mark.parametrize("family", SMOOTHED)
def test_a_model_of_multiplied_weights_calculates_the_same_bits(results: Any, family: str) -> None:  # noqa: ANN401
    found = results[family]
    assert found["same"]
    assert max(found["powers"]) > 1
    assert min(found["powers"]) < -1
    norms = [norm.rpartition(".")[2] for norm in found["report"]["norms"] if ".layers.1." in norm]
    assert sorted(norms) == SMOOTHED[family]


def test_what_reads_a_norm_beside_quantized_modules_makes_up_for_it_too(results: Any) -> None:  # noqa: ANN401
    layer = "model.layers.1.mlp"
    assert results["DeepSeek-V3"]["report"]["norms"]["model.layers.1.post_attention_layernorm"] == [
        f"{layer}.gate",
        *(f"{layer}.shared_experts.{name}_proj" for name in ("gate", "up")),
        *(f"{layer}.experts.*.{name}_proj" for name in ("gate", "up")),
    ]
    assert f"{layer}.gate.weight" in results["DeepSeek-V3"]["changed"]
    assert "gpt_neox.layers.1.input_layernorm.bias" in results["GPT-NeoX"]["changed"]


def test_norms_that_cannot_be_divided_are_left_as_they_are_and_counted(made: Path, results: Any) -> None:  # noqa: ANN401
    adding, scaling = (results[family]["report"] for family in (ADDING_1, "Llama 4"))
    assert adding["norms"] == {}
    assert len(adding["left_out"]) == 6
    # Each token of Llama 4's experts is multiplied by the router's score before, in a tensor of its own.
    assert scaling["left_out"] == [f"model.layers.{number}.post_attention_layernorm" for number in (0, 2)]
    source, smoothed = (Checkpoint.open(made / ADDING_1 / name) for name in ("source", "smoothed"))
    norms = [name for name in source.tensors if "norm" in name]
    assert all(source.read(name).tobytes() == smoothed.read(name).tobytes() for name in norms)


@pytest.mark.parametrize("family", [*SMOOTHED, ADDING_1])
def test_the_result_is_compared_in_its_own_units(made: Path, results: Any, family: str) -> None:  # noqa: ANN401
    report = examine(made / family / "smoothed", reference=made / family / "source", chat_template=False)
    failed = {check.name for check in report.checks if not check.passed}
    assert failed <= {"tokenizer"}  # these models have none
    assert min(layer.snr_db for layer in report.layers if layer.snr_db is not None) > 12
    # One group alone costs less than all, which it would not if inputs and weights were in different units.
    for layer in results[family]["divergence"]["layers"]:
        assert max(group["error"] for group in layer["groups"]) < 2 * layer["error"] + 0.1


@pytest.mark.parametrize("family", SMOOTHED)
def test_an_interrupted_run_goes_on_and_leaves_the_same_bytes(made: Path, family: str) -> None:
    for file in (made / family / "gptq").iterdir():
        assert file.read_bytes() == (made / family / "continued" / file.name).read_bytes(), file.name
