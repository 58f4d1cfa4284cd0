"""Are scales of inputs with headroom those of ModelOpt, and of tokens alone?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.formats import nvfp4
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

FAMILIES = ("llama", "qwen3-moe")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input-ranges")
    find_environment().run(Path(__file__).parent / "input_ranges_run.py", folder)
    return folder


@pytest.fixture(scope="session")
def results(made: Path) -> Any:  # noqa: ANN401 - as the script writes it
    return read_json(made / "results.json")


def scales(place: Path, name: str) -> dict[str, float]:
    return {each["module"]: each["input_scale"] for each in read_json(place / name / "quantization.json")["tensors"]}


def test_ranges_of_drawn_inputs_are_modelopts(results: Any) -> None:  # noqa: ANN401
    for one in results["drawn"]:
        assert np.float32(one["ours"]) == np.float32(one["theirs"]), one
    larger = [one["ours"] > one["largest"] for one in results["drawn"]]
    assert 4 < sum(larger) < len(larger)  # some are so wide that they leave no headroom


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_modelopts(made: Path, family: str) -> None:
    ours, theirs = (Checkpoint.open(made / family / name) for name in ("ours", "theirs"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert any(name.endswith("input_scale") for name in ours.tensors)
    differing = [name for name in ours.tensors if ours.read(name).tobytes() != theirs.read(name).tobytes()]
    assert differing == []


@pytest.mark.parametrize("name", ["padded", "smoothed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_count_and_smoothed_inputs_are_counted_as_they_are_rounded(
    made: Path,
    results: Any,  # noqa: ANN401
    family: str,
    name: str,
) -> None:
    found = scales(made / family, name)
    blocks = {module: np.array(each) for module, each in results[family][name].items() if module in found}
    assert len(blocks) >= 4 * 3
    for module, largest in blocks.items():
        expected = nvfp4.tensor_scale(_defined(largest[largest > 0]))
        assert found[module] == pytest.approx(float(expected), rel=1e-6), module


def _defined(largest: Any) -> float:  # noqa: ANN401 - an array
    """Calculate the range from all blocks: percentiles at the middle of bins of 80/512 of the binary logarithm."""
    ordered = np.sort(largest)
    middles = np.exp2((np.floor((np.log2(ordered) + 40) / 80 * 512) + 0.5) / 512 * 80 - 40)
    upper = middles[int(np.ceil(0.9999 * len(ordered))) - 1]
    counted = middles[ordered >= upper / 1e6]
    return max(16384 * float(counted[int(np.ceil(0.01 * len(counted))) - 1]), float(upper))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_run_goes_on_and_leaves_the_same_bytes(made: Path, family: str) -> None:
    for file in (made / family / "smoothed").iterdir():
        assert file.read_bytes() == (made / family / "continued" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_leaves_headroom_to_4_bit_inputs_alone(made: Path, family: str) -> None:
    headroom, (largest, chosen) = (
        scales(made / family, "padded"),
        (scales(made / family, n) for n in ("auto-max", "auto")),
    )
    formats = read_json(made / family / "auto" / "quantization.json")["choice"]
    four_bits = {module for module, scale in chosen.items() if scale == headroom[module]}
    assert 0 < len(four_bits) < len(chosen), formats
    assert all(chosen[module] == largest[module] for module in chosen.keys() & largest.keys() - four_bits)


def test_the_report_lists_what_is_cut_off(made: Path) -> None:
    for family in FAMILIES:
        listed = read_json(made / family / "ours" / "quantization.json")["input_scales"]
        assert listed["name"] == "headroom"
        assert isinstance(listed["cut_off"], list)
