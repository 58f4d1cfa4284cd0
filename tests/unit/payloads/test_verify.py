from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import CheckFailedError
from orchestrator.payloads import generate, quantize, verify
from orchestrator.quantization.files import read_json


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
        "min_snr_db",
        "served",
    ]
    assert (document["passed"], document["min_snr_db"], document["served"]) == (True, 19.5, None)
    assert [path.name for path in out.iterdir()] == ["quality.json"]


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
