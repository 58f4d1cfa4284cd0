"""Is a model of several formats what the real ModelOpt writes for the same choice, and does more budget say more?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.quantization import quality
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

FAMILIES = ("llama", "qwen3-moe")
BUDGETS = {"small": 4.6, "middle": 6.0, "large": 12.0}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto")
    find_environment().run(Path(__file__).parent / "auto_run.py", folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_and_both_configurations_are_what_modelopt_writes(made: Path, family: str) -> None:
    ours, theirs = made / family / "middle" / "ours", made / family / "middle" / "theirs"
    first, second = Checkpoint.open(ours), Checkpoint.open(theirs)
    assert first.tensors.keys() == second.tensors.keys()
    for name in first.tensors:
        assert first.read(name).tobytes() == second.read(name).tobytes(), name
    written = read_json(ours / "hf_quant_config.json")
    assert written == read_json(theirs / "hf_quant_config.json")
    assert written["quantization"]["quant_algo"] == "MIXED_PRECISION"
    found, expected = (read_json(place / "config.json")["quantization_config"] for place in (ours, theirs))
    assert found == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_result_is_no_larger_than_the_budget_and_passes_the_checks(made: Path, family: str, budget: str) -> None:
    folder = made / family / budget / "ours"
    choice = _choice(folder)
    modules = {module for group in choice["groups"] for module in group["modules"]}
    tensors = Checkpoint.open(folder).tensors.values()
    scales = ("weight", "weight_scale", "weight_scale_2", "input_scale")
    taken = [one for one in tensors if one.name.rpartition(".")[0] in modules and one.name.endswith(scales)]
    size = sum(one.size for one in taken if not one.name.endswith(("k_scale", "v_scale")))
    originals = Checkpoint.open(made / family / "source").tensors
    weights = sum(originals[f"{module}.weight"].size // 2 for module in modules)
    assert size == choice["bytes"]
    assert size * 8 <= BUDGETS[budget] * weights
    report = quality.examine(folder, reference=made / family / "source", min_snr_db=18)
    assert {check.name for check in report.checks if not check.passed} == {"tokenizer"}  # these models have none
    assert len(report.layers) == sum(len(g["modules"]) for g in choice["groups"] if g["format"] != "bf16")


@pytest.mark.parametrize("family", FAMILIES)
def test_more_budget_lets_the_model_say_more_of_what_it_said(made: Path, family: str) -> None:
    found = read_json(made / "divergence.json")
    small, middle, large = (found[f"{family} {budget}"]["kl_divergence"]["mean"] for budget in BUDGETS)
    assert small > 2 * middle > 4 * large
    errors = [_choice(made / family / budget / "ours")["error"] for budget in BUDGETS]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_engines_fuse_and_experts_of_a_layer_have_one_format(made: Path, family: str) -> None:
    for budget in BUDGETS:
        groups = _choice(made / family / budget / "ours")["groups"]
        sizes = {len(group["modules"]) for group in groups}
        assert sizes == ({1, 2, 3} if family == "llama" else {1, 3, 12})
        assert all(set(group["errors"]) == {"nvfp4", "fp8", "bf16"} for group in groups)


def test_the_curve_goes_from_the_smallest_formats_to_none(made: Path) -> None:
    choice = _choice(made / "llama" / "middle" / "ours")
    curve = choice["curve"]
    assert curve[0]["bits_per_weight"] == pytest.approx(4.5, abs=0.1)
    assert (curve[-1]["bits_per_weight"], curve[-1]["error"]) == (16, 0)
    sizes, errors = [point["bytes"] for point in curve], [point["error"] for point in curve]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert choice["bytes"] in sizes


def test_an_interrupted_run_goes_on_and_leaves_the_same_bytes(made: Path) -> None:
    whole, interrupted = made / "llama" / "middle" / "ours", made / "llama" / "interrupted"
    assert len(read_json(made / "llama" / "scratch" / "progress.json")["measured"]) == 3
    for file in interrupted.iterdir():
        assert file.read_bytes() == (whole / file.name).read_bytes(), file.name
    assert (interrupted / "hf_quant_config.json").exists()


def _choice(folder: Path) -> dict[str, Any]:
    choice: dict[str, Any] = read_json(folder / "quantization.json")["choice"]
    return choice
