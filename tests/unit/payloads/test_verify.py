from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import CheckFailedError, QualityTooLowError
from orchestrator.events import Warned, from_line
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
        "advice",
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


GUILTY = {"modules": ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"], "error": 0.09}


def _evaluation(folder: Path, divergence: float) -> list[str]:
    """Write what comparing found; return the options that name it."""
    other = {"modules": ["model.layers.0.mlp.down_proj"], "error": 0.01}
    found = {
        "tokens": 100,
        "kl_divergence": {"mean": divergence, "p99": 2.0},
        "perplexity": {"original": 8.0, "quantized": 8.4, "increase": 0.05},
        "agreement": 0.8,
        "layers": [{"layer": 0, "error": 0.1, "groups": [other, GUILTY]}],
    }
    write_json(folder / "evaluation.json", found)
    return ["--evaluation", str(folder / "evaluation.json")]


def test_other_ways_are_in_the_report_with_the_name_of_the_checkpoints_own(quantized: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "candidates.json", {"tokens": 9, "candidates": [{"name": "max"}]})
    more = ["--candidates", str(tmp_path / "candidates.json"), "--own", "weighted"]
    verify.main(["--checkpoint", str(quantized), "--output", str(tmp_path / "out"), *more])
    found = read_json(tmp_path / "out" / "quality.json")["compared"]
    assert found == {"own": "weighted", "tokens": 9, "candidates": [{"name": "max"}]}


def test_without_a_gate_much_worse_than_normal_fails_and_says_what_to_try(
    model: Path, quantized: Path, tmp_path: Path
) -> None:
    options = ["--checkpoint", str(quantized), "--reference", str(model), "--output", str(tmp_path / "out")]
    with pytest.raises(QualityTooLowError, match="normal") as raised:
        verify.main([*options, *_evaluation(tmp_path, 0.19)])
    assert raised.value.hint.startswith("set scale_search: weighted")
    assert "model.layers.0.mlp.gate_proj" in raised.value.hint
    document = read_json(tmp_path / "out" / "quality.json")
    assert document["advice"] == raised.value.hint
    assert not any(check["warning"] for check in document["checks"])


def test_without_a_gate_worse_than_normal_is_a_warning_that_says_what_to_try(
    model: Path, quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(quantized), "--reference", str(model), "--output", str(tmp_path / "out")]
    verify.main([*options, *_evaluation(tmp_path, 0.13)])
    document = read_json(tmp_path / "out" / "quality.json")
    assert document["passed"]
    (warned,) = [check for check in document["checks"] if check["warning"]]
    assert warned["name"] == "kl_divergence"
    assert "of the error comes from model.layers.0.mlp.gate_proj and model.layers.0.mlp.up_proj" in warned["detail"]
    assert "scale_search: weighted" in document["advice"]
    assert "2.2 times what is normal for W4A16_NVFP4" in document["divergence"]["meaning"]
    (event,) = [event for line in capsys.readouterr().out.splitlines() if isinstance(event := from_line(line), Warned)]
    assert warned["detail"] in event.message
    assert document["advice"] in event.message


def test_a_search_that_was_used_already_is_not_advised(model: Path, quantized: Path, tmp_path: Path) -> None:
    write_json(quantized / "quantization.json", {"scale_search": {"name": "weighted", "as_mse": []}})
    options = ["--checkpoint", str(quantized), "--reference", str(model), "--output", str(tmp_path / "out")]
    verify.main([*options, *_evaluation(tmp_path, 0.13)])
    assert read_json(tmp_path / "out" / "quality.json")["advice"].startswith("give more bits where they count most")


def test_what_is_normal_for_the_format_is_no_warning(model: Path, quantized: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(quantized), "--reference", str(model), "--output", str(tmp_path / "out")]
    verify.main([*options, *_evaluation(tmp_path, 0.12)])
    document = read_json(tmp_path / "out" / "quality.json")
    assert not any(check["warning"] for check in document["checks"])
    assert document["advice"] == ""


def test_a_gate_that_is_not_met_names_whom_to_leave_alone(model: Path, quantized: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(quantized), "--reference", str(model), "--output", str(tmp_path / "out")]
    compared = [*_evaluation(tmp_path, 0.5), "--max-perplexity-increase", "0.1"]
    with pytest.raises(QualityTooLowError) as raised:
        verify.main([*options, *compared, "--max-kl-divergence", "0.1"])
    assert "0.5 nats a token" in raised.value.message
    names = "model.layers.0.mlp.gate_proj, model.layers.0.mlp.up_proj"
    assert raised.value.hint.endswith(f"quantization: {{exclude: [{names}]}}")
    document = read_json(tmp_path / "out" / "quality.json")
    failed = [check["name"] for check in document["checks"] if not check["passed"]]
    assert failed == ["kl_divergence"]
    assert document["divergence"]["blame"] == [
        {"gate": "kl_divergence", "share": 0.9, "exclude": GUILTY["modules"]},
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
