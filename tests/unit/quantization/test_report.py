"""The report of a quantization: what is in it, and what is left out if it does not apply."""

from __future__ import annotations

import numpy as np

from orchestrator.quantization.activation_probe import Measured
from orchestrator.quantization.report import Report
from orchestrator.quantization.schemes import SCHEMES


def test_a_plain_report_has_no_entry_that_does_not_apply() -> None:
    document = Report("fp8", "none").document()
    assert document == {
        "format": "fp8",
        "kv_cache": "none",
        "snr_db": {"min": None, "mean": None},
        "experts": {"unreached": 0, "tokens": {}},
        "tensors": [],
    }


def test_a_report_has_the_choice_the_search_and_the_layers_without_scales() -> None:
    report = Report("auto", "fp8", scale_search="weighted", choice={"bits": 5}, without_cache_scales={"l.0": "why"})
    for module, falls_back in (("l.1.up", False), ("l.1.down", True)):
        report.tensor(module, SCHEMES["nvfp4"], np.float32(1)).falls_back = falls_back
    document = report.document()
    assert document["choice"] == {"bits": 5}
    assert document["scale_search"] == {"name": "weighted", "as_mse": ["l.1.down"]}
    assert document["without_cache_scales"] == {"l.0": "why"}


def test_the_noise_of_weights_is_averaged_over_those_that_have_some() -> None:
    report = Report("fp8", "none")
    for module, noise in (("a", 1.0), ("b", 10.0), ("c", 0.0)):
        entry = report.tensor(module, SCHEMES["fp8"], np.float32(0.5))
        entry.signal, entry.noise = 1000.0, noise
    document = report.document()
    assert [entry["snr_db"] for entry in document["tensors"]] == [30.0, 20.0, None]
    assert document["snr_db"] == {"min": 20.0, "mean": 25.0}
    assert document["tensors"][0] == {"module": "a", "snr_db": 30.0, "weight_scale": 0.5, "input_scale": None}


def test_experts_that_no_token_reached_are_counted() -> None:
    report = Report("fp8", "none")
    reached = {"0": 4, "2": 6}
    leaves = ("up_proj", "down_proj")
    measured = Measured(
        tokens={f"mlp.experts.{expert}.{leaf}": count for expert, count in reached.items() for leaf in leaves}
    )
    for expert in range(3):
        for leaf in leaves:
            report.tensor(f"l.0.mlp.experts.{expert}.{leaf}", SCHEMES["fp8"], np.float32(1))
    report.tensor("l.1.mlp.up_proj", SCHEMES["fp8"], np.float32(1))
    report.layer("l.0", measured)
    report.layer("l.1", measured)
    experts = report.document()["experts"]
    assert experts["unreached"] == 1
    assert list(experts["tokens"]) == ["l.0"]
    assert sorted(experts["tokens"]["l.0"].values()) == [0, 4, 6]
