"""Do the searches `weighted` and `local_hessian` and GPTQ follow the inputs of a real model?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.quantization.activation_probe import ENOUGH_TOKENS
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.formats import gptq, nvfp4
from orchestrator.quantization.hessian import DAMPING, OWN_DAMPING
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

FAMILIES = ("llama", "qwen3-moe", "llama-4")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighted")
    find_environment().run(Path(__file__).parent / "weighted_run.py", folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_count_as_much_as_their_inputs_without_padding(made: Path, family: str) -> None:
    source, weighted = (Checkpoint.open(made / family / name) for name in ("source", "weighted"))
    squares = np.load(made / family / "squares.npz")
    checked = differing = 0
    for module in squares.files:
        name = f"{module}.weight"
        if f"{name}_scale" not in weighted.tensors:
            continue
        importance = (squares[module] / squares[module].max()).astype(np.float32)
        scale_2 = np.float32(weighted.read(f"{name}_scale_2"))
        expected = nvfp4.encode(source.read(name), scale_2, "mse", importance)
        found = weighted.read(f"{name}_scale")
        differing += int(np.count_nonzero(found.view(np.uint8) != expected.scales.view(np.uint8)))
        checked += found.size
    assert checked > 1000
    assert differing <= checked / 1000  # sums of squares differ in their last places


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_count_as_pairs_of_inputs_in_a_block_go_together(made: Path, family: str) -> None:
    source, searched = (Checkpoint.open(made / family / name) for name in ("source", "local_hessian"))
    products = np.load(made / family / "products.npz")
    checked = differing = 0
    for module in products.files:
        name, sums = f"{module}.weight", products[module]
        if f"{name}_scale" not in searched.tensors:
            continue
        blocks = np.stack([sums[here : here + 16, here : here + 16] for here in range(0, len(sums), 16)])
        scale_2 = np.float32(searched.read(f"{name}_scale_2"))
        expected = nvfp4.encode(source.read(name), scale_2, "mse", nvfp4.pairs_of(blocks))
        found = searched.read(f"{name}_scale")
        differing += int(np.count_nonzero(found.view(np.uint8) != expected.scales.view(np.uint8)))
        checked += found.size
    assert checked > 1000
    assert differing <= checked / 1000  # products differ in their last places


@pytest.mark.parametrize("search", ["weighted", "local_hessian"])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_scales_of_blocks_and_codes_differ_from_another_search(made: Path, family: str, search: str) -> None:
    weighted, mse = (Checkpoint.open(made / family / name) for name in (search, "mse"))
    differ = {name for name in mse.tensors if mse.read(name).tobytes() != weighted.read(name).tobytes()}
    assert differ
    assert all(name.endswith((".weight", "weight_scale", ".gate_up_proj", ".down_proj")) for name in differ)


@pytest.mark.parametrize("search", ["weighted", "local_hessian"])
def test_experts_that_few_tokens_reached_are_searched_without_weights_and_counted(made: Path, search: str) -> None:
    weighted, mse = (Checkpoint.open(made / "qwen3-moe" / name) for name in (search, "mse"))
    report = read_json(made / "qwen3-moe" / search / "quantization.json")
    tokens = report["experts"]["tokens"]
    few = {
        f"{layer}.{expert}" for layer, hits in tokens.items() for expert, count in hits.items() if count < ENOUGH_TOKENS
    }
    assert 0 < len(few) < sum(map(len, tokens.values()))
    fallen = report["scale_search"]["as_mse"]
    assert {module.rpartition(".")[0] for module in fallen} == few
    assert len(fallen) == 3 * len(few)
    for module in fallen:
        scales = f"{module}.weight_scale"
        assert weighted.read(scales).tobytes() == mse.read(scales).tobytes()


def test_experts_in_one_tensor_have_scales_by_what_each_of_them_gets(made: Path) -> None:
    source, weighted, mse = (Checkpoint.open(made / "llama-4" / name) for name in ("source", "weighted", "mse"))
    found = np.load(made / "llama-4" / "experts.npz")
    checked = differing = 0
    few: set[str] = set()
    for name in [name for name in found.files if name.endswith("_proj")]:
        matrices, scales = source.read(name), weighted.read(f"{name}_weight_scale").view(np.uint8)
        scale_2, as_mse = np.float32(weighted.read(f"{name}_weight_scale_2")), mse.read(f"{name}_weight_scale")
        tokens = found[f"{name.rpartition('.')[0]} tokens"]
        for expert, squares in enumerate(found[name]):
            if tokens[expert] < ENOUGH_TOKENS:
                few.add(f"{name}.{expert}")
                assert scales[expert].tobytes() == as_mse.view(np.uint8)[expert].tobytes()
                continue
            importance = (squares / squares.max()).astype(np.float32)
            weight = np.ascontiguousarray(matrices[expert].T)
            expected = nvfp4.encode(weight, scale_2, "mse", importance).scales.view(np.uint8)
            differing += int(np.count_nonzero(expected != scales[expert].T))
            checked += expected.size
    assert checked > 1000
    assert differing <= checked / 1000  # sums of squares differ in their last places
    assert few
    assert set(read_json(made / "llama-4" / "weighted" / "quantization.json")["scale_search"]["as_mse"]) == few


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_an_interrupted_choice_of_formats_goes_on_and_leaves_the_same_bytes(made: Path, rounding: str) -> None:
    whole, continued = (made / "llama" / f"{name}-{rounding}" for name in ("auto", "continued"))
    assert read_json(whole / "quantization.json")["scale_search"]["name"] == "weighted"
    assert len(list((made / "llama" / f"scratch-{rounding}").glob("inputs-*"))) == 3
    for file in whole.iterdir():
        assert file.read_bytes() == (continued / file.name).read_bytes(), file.name


def test_a_choice_of_formats_measures_and_writes_what_gptq_rounded(made: Path) -> None:
    chosen, gptq_alone = (Checkpoint.open(made / "llama" / name) for name in ("auto-gptq", "gptq"))
    reports = [read_json(made / "llama" / f"auto-{name}" / "quantization.json") for name in ("nearest", "gptq")]
    four_bits = [name for name in chosen.tensors if name.endswith("weight_scale_2")]
    assert 0 < len(four_bits) < sum(name.endswith("weight_scale_2") for name in gptq_alone.tensors)
    for name in (name.removesuffix("_scale_2") for name in four_bits):
        for suffix in ("", "_scale", "_scale_2"):
            assert chosen.read(f"{name}{suffix}").tobytes() == gptq_alone.read(f"{name}{suffix}").tobytes()
    by_nearest, by_gptq = (
        sum(group["errors"]["nvfp4"] for group in report["choice"]["groups"] if "nvfp4" in group["errors"])
        for report in reports
    )
    assert by_nearest != by_gptq
    assert reports[1]["rounding"]["as_nearest"] == []
    assert {path.name for path in (made / "llama" / "auto-gptq").iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_gptq_rounds_by_the_products_of_inputs_without_padding(made: Path, family: str) -> None:
    source, found = (Checkpoint.open(made / family / name) for name in ("source", "gptq"))
    products = np.load(made / family / "products.npz")
    checked = same = 0
    for module in products.files:
        name, hessian = f"{module}.weight", products[module]
        if f"{name}_scale" not in found.tensors:
            continue
        squares = hessian.diagonal()
        order = np.argsort(-squares.reshape(-1, 16).sum(1), kind="stable")
        columns = (order[:, np.newaxis] * 16 + np.arange(16)).reshape(-1)
        damped = hessian + np.diag(OWN_DAMPING * squares + DAMPING * squares.mean())
        upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(columns, columns)])).T
        matrix = (upper / upper.diagonal()[:, np.newaxis]).astype(np.float32)
        costs = 1 / np.square(upper.diagonal())
        unused = np.zeros((len(order), 136), np.float32)
        changes = gptq.Changes(matrix, (costs / costs.max()).astype(np.float32), order.astype(np.int32), unused)
        scale_2 = np.float32(found.read(f"{name}_scale_2"))
        expected = gptq.encode(source.read(name), scale_2, "weighted", changes)
        same += int(np.count_nonzero(found.read(name) == expected.codes))
        checked += expected.codes.size
    assert checked > 1000
    assert same >= 0.98 * checked  # products differ in their last places, and a tie changes what comes after it


@pytest.mark.parametrize(("family", "name"), [*((family, "gptq") for family in FAMILIES), ("llama", "local_hessian")])
def test_an_interrupted_run_goes_on_and_leaves_the_same_bytes(made: Path, family: str, name: str) -> None:
    whole, continued = made / family / name, made / family / f"{name}-continued"
    for file in whole.iterdir():
        assert file.read_bytes() == (continued / file.name).read_bytes(), file.name


def test_experts_that_few_tokens_reached_are_rounded_to_the_nearest_and_counted(made: Path) -> None:
    found, mse = (Checkpoint.open(made / "qwen3-moe" / name) for name in ("gptq", "mse"))
    report = read_json(made / "qwen3-moe" / "gptq" / "quantization.json")
    fallen, tokens = report["rounding"]["as_nearest"], report["experts"]["tokens"]
    few = {
        f"{layer}.{expert}" for layer, hits in tokens.items() for expert, count in hits.items() if count < ENOUGH_TOKENS
    }
    assert {module.rpartition(".")[0] for module in fallen} == few
    for module in fallen:
        for leaf in ("weight", "weight_scale"):
            assert found.read(f"{module}.{leaf}").tobytes() == mse.read(f"{module}.{leaf}").tobytes()
    reached = next(entry["module"] for entry in report["tensors"] if entry["module"] not in fallen)
    assert found.read(f"{reached}.weight").tobytes() != mse.read(f"{reached}.weight").tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_whose_inputs_are_more_than_tokens_told_apart_are_counted(made: Path, family: str) -> None:
    report = read_json(made / family / "gptq" / "quantization.json")
    products, source = np.load(made / family / "products.npz"), Checkpoint.open(made / family / "source")
    known = {name for name in products.files if f"{name}.weight" in source.tensors}
    quantized = {entry["module"] for entry in report["tensors"]} & known
    singular = {name for name in quantized if np.linalg.matrix_rank(products[name]) < len(products[name])}
    assert singular >= set(report["rounding"]["singular"]) & known
