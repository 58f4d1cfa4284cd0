from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import CheckFailedError, QualityTooLowError
from orchestrator.payloads import generate, quantize, verify
from orchestrator.quantization.files import read_json, write_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generate.main(["--output", str(tmp_path / "model"), "--hidden-size", "64", "--layers", "1", "--vocab-size", "261"])
    return tmp_path / "model"


@pytest.fixture
def quantized(model: Path, tmp_path: Path) -> Path:
    quantize.main(["--checkpoint", str(model), "--output", str(tmp_path / "quantized")])
    return tmp_path / "quantized"


def test_what_was_found_is_written(model: Path, quantized: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    verify.main(
        ["--checkpoint", str(quantized), "--reference", str(model), "--min-snr-db", "19.5", "--output", str(out)]
    )
    document = read_json(out / "quality.json")
    assert list(document) == [
        "format",
        "passed",
        "checks",
        "skipped",
        "layers",
        "snr_db",
        "divergence",
        "min_snr_db",
        "served",
    ]
    assert (document["passed"], document["min_snr_db"], document["served"]) == (True, 19.5, None)
    assert [path.name for path in out.iterdir()] == ["quality.json"]
    assert document["divergence"] is None
    (skipped,) = [one for one in document["skipped"] if one["name"] == "kl_divergence"]
    assert "checks.held_out" in skipped["reason"]


def test_a_gate_that_is_not_met_names_whom_to_leave_alone(model: Path, quantized: Path, tmp_path: Path) -> None:
    guilty = {"modules": ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"], "error": 0.09}
    other = {"modules": ["model.layers.0.mlp.down_proj"], "error": 0.01}
    found = {
        "tokens": 100,
        "kl_divergence": {"mean": 0.5, "p99": 2.0},
        "perplexity": {"original": 8.0, "quantized": 8.4, "increase": 0.05},
        "agreement": 0.8,
        "layers": [{"layer": 0, "error": 0.1, "groups": [other, guilty]}],
    }
    write_json(tmp_path / "evaluation.json", found)
    options = ["--checkpoint", str(quantized), "--reference", str(model), "--output", str(tmp_path / "out")]
    compared = ["--evaluation", str(tmp_path / "evaluation.json"), "--max-perplexity-increase", "0.1"]
    with pytest.raises(QualityTooLowError) as raised:
        verify.main([*options, *compared, "--max-kl-divergence", "0.1"])
    assert "0.5 nats a token" in raised.value.message
    names = "model.layers.0.mlp.gate_proj, model.layers.0.mlp.up_proj"
    assert raised.value.hint.endswith(f"quantization: {{exclude: [{names}]}}")
    document = read_json(tmp_path / "out" / "quality.json")
    failed = [check["name"] for check in document["checks"] if not check["passed"]]
    assert failed == ["kl_divergence"]
    assert document["divergence"]["blame"] == [
        {"gate": "kl_divergence", "share": 0.9, "exclude": guilty["modules"]},
    ]
    verify.main([*options, *compared, "--max-kl-divergence", "0.6"])
    assert read_json(tmp_path / "out" / "quality.json")["passed"]


def test_what_was_found_is_written_before_a_failure(model: Path, quantized: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(quantized), "--reference", str(model), "--min-snr-db", "40"]
    with pytest.raises(CheckFailedError, match="expected at least 40"):
        verify.main([*options, "--output", str(tmp_path / "out")])
    document = read_json(tmp_path / "out" / "quality.json")
    assert not document["passed"]
    assert len(document["layers"]) == 7


def test_a_folder_that_is_no_checkpoint_fails_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"config.json: no such file"):
        verify.main(["--checkpoint", str(tmp_path), "--output", str(tmp_path / "out")])
    assert not read_json(tmp_path / "out" / "quality.json")["passed"]
