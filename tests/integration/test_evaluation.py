"""Does the walk over two models, a layer of each at a time, find what comparing the whole models finds?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from orchestrator.quantization.evaluation import Evaluation, advice, judge
from orchestrator.quantization.formats import e2m1
from orchestrator.quantization.limits import Limit, Limits
from tests.support.families import FAMILIES, STORED_OTHERWISE
from tests.support.oracle import find_environment
from tests.support.sample import sample

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

CASES = [
    f"{family} {wanted}"
    for family in ("llama", "qwen3-moe")
    for wanted in ("nvfp4 none", "nvfp4 fp8", "fp8 fp8", "w4a16_nvfp4 none")
]


ORIGINALS = sample("originals", [*FAMILIES, *STORED_OTHERWISE], 10)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("evaluated")
    find_environment().run(Path(__file__).parent / "evaluate_run.py", folder, *ORIGINALS)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_walk_finds_what_comparing_whole_models_in_float64_finds(results: dict[str, Any], case: str) -> None:
    ours, whole = results[case]["ours"], results[case]["whole"]
    assert ours["kl_divergence"]["mean"] == pytest.approx(whole["kl"], rel=0.01)
    assert ours["perplexity"]["original"] == pytest.approx(whole["original"], rel=1e-4)
    assert ours["perplexity"]["quantized"] == pytest.approx(whole["quantized"], rel=0.01)
    assert ours["tokens"] == 3 * 23 + 16 + 11


@pytest.mark.parametrize("model", ORIGINALS)
def test_an_original_says_what_transformers_own_model_says(results: dict[str, Any], model: str) -> None:
    found = results["originals"][model]
    family = FAMILIES[STORED_OTHERWISE[model].family if model in STORED_OTHERWISE else model]
    assert found["ours"] == pytest.approx(found["eager"], rel=1e-6)
    # By default experts are added in FP32 and rounded once, not after each.
    assert found["default"] == pytest.approx(found["eager"], rel=1e-3 if "experts" in str(family) else 1e-6)


@pytest.mark.parametrize("family", ["deepseek_v4", "gemma4_text"])
def test_a_model_whose_own_code_runs_between_layers_says_what_the_whole_says(
    results: dict[str, Any], family: str
) -> None:
    found = results["own code"][family]
    assert found["ours"] == pytest.approx(found["whole"], rel=1e-5)
    assert 0 < found["kl"] < 0.1


def test_a_model_with_forwards_of_its_own_is_compared_as_without(results: dict[str, Any]) -> None:
    usual, own = results["forwards of their own"]
    assert own["layers"][-1].pop("error") > 0  # measured after the last norm
    usual["layers"][-1].pop("error")
    assert own == usual


@pytest.mark.parametrize("family", ["Llama 4", "gpt-oss"])
def test_experts_in_one_tensor_say_what_their_decoded_weights_say(results: dict[str, Any], family: str) -> None:
    found = results["experts in one tensor"][family]
    # The whole model has the decoded weights rounded to BF16, which may route a token to another expert.
    assert found["ours"] == pytest.approx(found["whole"], rel=0.1)
    assert found["ours"] > 0.1


def test_inputs_in_four_bits_and_a_quantized_cache_are_told_apart(results: dict[str, Any]) -> None:
    divergence = {case: results[case]["ours"]["kl_divergence"]["mean"] for case in CASES}
    for family in ("llama", "qwen3-moe"):
        assert divergence[f"{family} fp8 fp8"] < divergence[f"{family} w4a16_nvfp4 none"] / 2
        assert divergence[f"{family} w4a16_nvfp4 none"] < divergence[f"{family} nvfp4 none"] * 0.9
        assert divergence[f"{family} nvfp4 none"] != divergence[f"{family} nvfp4 fp8"]


def test_the_layer_to_blame_is_named_and_leaving_it_alone_helps_as_much_as_was_said(
    results: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(results["bad layer"]))
    found = Evaluation.read(file)
    allowed = found.kl_divergence * 0.6
    (failed,) = [verdict for verdict in judge(found, Limits(Limit(allowed))) if not verdict.passed]
    assert failed.blame
    assert failed.blame.exclude == ["model.layers.1.mlp.down_proj"]
    assert advice([failed]).endswith("quantization: {exclude: [model.layers.1.mlp.down_proj]}")
    assert results["bad layer left alone"]["kl_divergence"]["mean"] <= allowed


def test_experts_of_a_layer_are_one_group(results: dict[str, Any]) -> None:
    for layer in results["qwen3-moe nvfp4 none"]["ours"]["layers"]:
        sizes = sorted(len(group["modules"]) for group in layer["groups"])
        assert sizes == [1, 3, 12]  # o; q, k and v; gate, up and down of four experts
        assert all(group["error"] > 0 for group in layer["groups"])


def test_inputs_become_the_numbers_of_the_format(results: dict[str, Any]) -> None:
    given, scale = np.array(results["inputs"]["given"], np.float32), np.float32(1 / 448)
    eight = np.clip(given / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(results["inputs"]["fp8"], eight)
    blocks = given.reshape(-1, 16)
    wanted = np.abs(blocks).max(1, keepdims=True) / (np.float32(6) * scale)
    scales = np.minimum(wanted, np.float32(448)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(scales > 0, np.abs(blocks) / (scales * scale), 0)
    below = np.searchsorted(e2m1.HALFWAY, size, side="left")
    codes = below + (np.isin(size, e2m1.HALFWAY) & (below % 2 == 1))  # the even one of two codes that are as near
    expected = np.copysign(e2m1.VALUES[codes] * scales, blocks).reshape(given.shape)
    assert np.array_equal(results["inputs"]["nvfp4"], expected)
    assert not expected[1, :16].any()  # its scale rounds to zero
    assert (expected[1:] != 0).mean() > 0.8
