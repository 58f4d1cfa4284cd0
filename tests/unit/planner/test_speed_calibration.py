from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CatalogError, MeasurementUnusableError, SpeedInputError
from orchestrator.planner.calibration import (
    Observation,
    calibrated,
    fit_costs,
    mean_error,
    observations_of,
)
from orchestrator.planner.constants import (
    COSTS,
    RuntimeConstants,
    constants_of,
    constants_with,
    default_constants,
    to_document,
)
from orchestrator.planner.scheme import scheme_of
from orchestrator.planner.speed import served
from tests.unit.planner.test_speed import SHAPES, SPARK, asked, of

KNOWN = default_constants()
TRTLLM = KNOWN.runtimes["trtllm"]
SCHEME = scheme_of("nvfp4")
CONCURRENCY = (1, 4, 16)


def performance(runtime: RuntimeConstants, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """What trtllm-bench would report on a machine with these constants."""
    levels = []
    for concurrency in CONCURRENCY:
        asks = asked(batch=concurrency, context=1024 + 128, output_tokens=128)
        rate = served(asks, KNOWN.with_runtime("trtllm", runtime)).expected
        levels.append(
            {
                "concurrency": concurrency,
                "output_tokens_per_second": rate,
                "command": ["trtllm-bench", "--tp", "1"],
            }
        )
    return {"dataset": {"input_tokens": 1024, "output_tokens": 128}, "levels": levels} | changes


def observe(document: dict[str, Any]) -> list[Observation]:
    return observations_of(document, SHAPES["8b"], SCHEME, SPARK, KNOWN)


def slower(cost: str, factor: float) -> RuntimeConstants:
    return dataclasses.replace(
        TRTLLM, costs={name: TRTLLM.costs[name] * (factor if name == cost else 1) for name in COSTS}
    )


def test_constants_that_fit_already_stay() -> None:
    after = calibrated(TRTLLM, observe(performance(TRTLLM)), "ours")
    assert after.costs == pytest.approx(TRTLLM.costs, rel=1e-6)


def test_a_slower_memory_is_found_in_the_cost_of_weights() -> None:
    observations = observe(performance(slower("weights", 1.3)))
    after = calibrated(TRTLLM, observations, "ours")
    assert after.costs["weights"] / TRTLLM.costs["weights"] == pytest.approx(1.3, abs=0.1)
    assert mean_error(observations, after) < 0.25 * mean_error(observations, TRTLLM)


def test_costs_that_nothing_tells_stay() -> None:
    after = calibrated(TRTLLM, observe(performance(slower("weights", 1.3))), "ours")
    for cost in ("exchange", "recurrent", "prefill_8", "prefill_block"):
        assert after.costs[cost] == pytest.approx(TRTLLM.costs[cost])


def test_no_cost_falls_below_zero() -> None:
    found = fit_costs([Observation({"weights": 1.0, "cache": 1.0}, 0.01)], TRTLLM.costs)
    assert all(value >= 0 for value in found.values())


def test_without_observations_the_prior_is_the_answer() -> None:
    assert fit_costs([], TRTLLM.costs) == TRTLLM.costs


def test_one_wild_measurement_moves_little() -> None:
    good = observe(performance(TRTLLM))
    wild = Observation(good[0].terms, good[0].seconds * 10, good[0].group)
    after = calibrated(TRTLLM, [*good, *good, *good, wild], "ours")
    assert after.costs["weights"] == pytest.approx(TRTLLM.costs["weights"], rel=0.15)


@pytest.mark.parametrize("option", ["--tp", "--tensor-parallel-size"])
def test_the_gpus_that_share_a_model_are_read_from_the_command(option: str) -> None:
    document = performance(TRTLLM)
    for level in document["levels"]:
        level["command"] = ["server", option, "2"]
    with pytest.raises(SpeedInputError, match="gpus: found 2"):
        observe(document)  # a Spark has one


def test_a_measurement_faster_than_the_bandwidth_is_refused() -> None:
    document = performance(slower("weights", 0.1))
    with pytest.raises(MeasurementUnusableError, match="drafts were accepted"):
        observe(document)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {}},
        {"dataset": {"input_tokens": 0, "output_tokens": 128}},
        {"levels": []},
        {"levels": [{"concurrency": 1}]},
        {"levels": [{"concurrency": 1, "output_tokens_per_second": math.nan, "command": []}]},
        {"levels": [{"concurrency": 1, "output_tokens_per_second": -1.0, "command": []}]},
        {"levels": [{"concurrency": 1, "output_tokens_per_second": None, "command": []}]},
    ],
)
def test_a_report_that_lacks_a_figure_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MeasurementUnusableError):
        observe(performance(TRTLLM, **change))


def test_a_calibration_is_read_back_and_named_in_the_basis(tmp_path: Path) -> None:
    runtime = dataclasses.replace(slower("weights", 1.5), basis="3 levels of 1 benchmark of this machine")
    document = {"sm": 121, **to_document(KNOWN.with_runtime("trtllm", runtime), "trtllm")}
    (tmp_path / "constants.json").write_text(json.dumps(document), encoding="utf-8")
    found, file = constants_of(tmp_path)
    assert file == tmp_path / "constants.json"
    assert of(constants=found).decode.expected < of().decode.expected
    assert "of this machine" in "".join(of(constants=found).basis)
    assert found.runtimes["vllm"] == KNOWN.runtimes["vllm"]


def test_without_a_calibration_the_projects_constants_are_used(tmp_path: Path) -> None:
    assert constants_of(tmp_path) == (KNOWN, None)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"engines": {"trtllm": {}}}', '{"engines": {}, "sm": "121"}', '{"engines": {"trtllm": 5}}'],
)
def test_a_file_that_is_no_calibration_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "constants.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError, match=r"constants\.json"):
        constants_with(file)


@pytest.mark.parametrize("value", [math.nan, -1.0, "fast", None])
def test_a_cost_that_cannot_be_is_an_error(tmp_path: Path, value: object) -> None:
    document = to_document(KNOWN, "trtllm")
    document["engines"]["trtllm"]["costs"]["weights"] = value
    file = tmp_path / "constants.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(CatalogError, match="weights"):
        constants_with(file)


def written(folder: Path, *path: str, value: object) -> Path:
    """Write a calibration with another value at one place of its entry."""
    document: dict[str, Any] = {"sm": 121, **to_document(KNOWN, "trtllm")}
    place = document["engines"]["trtllm"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    file = folder / "constants.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def test_a_cost_may_be_zero(tmp_path: Path) -> None:
    assert constants_with(written(tmp_path, "costs", "exchange", value=0)).runtimes["trtllm"].costs["exchange"] == 0


@pytest.mark.parametrize("name", ["chunk", "likeness"])
def test_other_numbers_of_a_calibration_are_above_zero(tmp_path: Path, name: str) -> None:
    with pytest.raises(CatalogError, match=f"{name}: expected a number above 0; found 0"):
        constants_with(written(tmp_path, name, value=0))


def test_a_calibration_keeps_every_field_of_its_runtime(tmp_path: Path) -> None:
    costs = {cost: round(1 + place / 8, 4) for place, cost in enumerate(COSTS)}
    for flag in (True, False):
        runtime = RuntimeConstants(
            costs=costs,
            likeness=0.75,
            chunk=4096,
            basis="ours",
            experts_measured=flag,
            four_bit_products=not flag,
            pads_windows=flag,
        )
        document = {"sm": 121, **to_document(KNOWN.with_runtime("trtllm", runtime), "trtllm")}
        (tmp_path / "constants.json").write_text(json.dumps(document), encoding="utf-8")
        assert constants_of(tmp_path)[0].runtimes["trtllm"] == runtime


def test_what_was_fitted_on_a_machine_has_its_processor_and_other_runtimes_do_not(tmp_path: Path) -> None:
    document: dict[str, Any] = {"sm": 90, **to_document(KNOWN, "vllm")}
    document["engines"]["vllm"]["costs"]["host"] = 2.5
    (tmp_path / "constants.json").write_text(json.dumps(document), encoding="utf-8")
    found = constants_of(tmp_path)[0]
    assert found.runtime("vllm", 90).costs["host"] == 2.5
    assert found.runtime("vllm", 100).costs["host"] == KNOWN.host_ms["vllm"]
    assert [found.runtimes["trtllm"].sm, found.runtimes["vllm"].sm] == [121, 90]  # each keeps its own machine


def test_a_calibration_of_an_older_version_has_no_such_cost(tmp_path: Path) -> None:
    document: dict[str, Any] = {"sm": 121, **to_document(KNOWN, "trtllm")}
    del document["engines"]["trtllm"]["costs"]["host"]
    (tmp_path / "constants.json").write_text(json.dumps(document), encoding="utf-8")
    assert constants_of(tmp_path)[0].runtimes["trtllm"].costs["host"] == 0
