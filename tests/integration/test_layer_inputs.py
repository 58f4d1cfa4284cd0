"""Are layers calibrated on what quantized layers before them put out?"""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.quantization.files import read_json
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

DEFINED = {"llama nvfp4": 2688, "llama fp8": 448, "qwen3-moe nvfp4": 2688}
"""The largest input over its scale, by case."""
HAND_ON_MORE = ("deepseek_v4", "gemma3n_text")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layer-inputs")
    find_environment().run(Path(__file__).parent / "layer_inputs_run.py", folder)
    return folder


def scales(place: Path, name: str) -> dict[str, float]:
    return {each["module"]: each["input_scale"] for each in read_json(place / name / "quantization.json")["tensors"]}


@pytest.mark.parametrize("case", DEFINED)
def test_a_layer_is_calibrated_on_what_the_quantized_layers_before_it_put_out(made: Path, case: str) -> None:
    original, quantized = (scales(made / case, name) for name in ("original", "quantized"))
    expected = read_json(made / "results.json")[case]["whole"]
    modules = [module for module in quantized if module in expected]  # experts are called otherwise
    assert len(modules) >= 4 * 3
    for module in modules:
        assert quantized[module] * DEFINED[case] == pytest.approx(expected[module], rel=1e-6), module
        if ".layers.0." in module:
            assert original[module] == quantized[module], module
    later = [module for module in modules if ".layers.0." not in module]
    assert sum(original[module] != quantized[module] for module in later) > len(later) / 2


def test_modelopt_finds_the_same_behind_a_quantized_layer(made: Path) -> None:
    found, modelopt = {}, read_json(made / "results.json")["Phi-3 fp8"]["modelopt"]
    for name in ("original", "quantized"):
        found[name] = {module: scale * 448 for module, scale in scales(made / "Phi-3 fp8", name).items()}
    assert found["original"] == pytest.approx(modelopt["original"], rel=1e-6)
    # Behind that, its BF16 and a runtime's FP32 part: a model of random weights does not forgive a last place.
    first = "model.layers.1.self_attn.qkv_proj"
    assert found["quantized"][first] == pytest.approx(modelopt["quantized"][first], rel=1e-3)
    assert found["quantized"][first] != pytest.approx(modelopt["original"][first], rel=1e-3)


@pytest.mark.parametrize("family", HAND_ON_MORE)
def test_models_whose_own_code_runs_between_their_layers_can_be_calibrated_so(made: Path, family: str) -> None:
    original, quantized = (list(scales(made / family, name).items()) for name in ("original", "quantized"))
    differing = [module for (module, one), (_, other) in zip(original, quantized, strict=True) if one != other]
    assert len(differing) > len(original) / 3
    assert not any(".layers.0." in module for module in differing)


@pytest.mark.parametrize("case", [*DEFINED, "llama w4a16_nvfp4"])
def test_an_interrupted_run_goes_on_and_leaves_the_same_bytes(made: Path, case: str) -> None:
    differs = False
    for file in (made / case / "quantized").iterdir():
        assert file.read_bytes() == (made / case / "continued" / file.name).read_bytes(), file.name
        differs |= file.read_bytes() != (made / case / "original" / file.name).read_bytes()
    assert differs


def test_the_report_says_which_inputs_were_used(made: Path) -> None:
    original, quantized = (
        read_json(made / "llama fp8" / name / "quantization.json").get("layer_inputs")
        for name in ("original", "quantized")
    )
    assert (original, quantized) == (None, "quantized")
