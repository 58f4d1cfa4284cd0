from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.events import Event, LogLine, Progress, Spent, from_line
from orchestrator.payloads import generate, quantize
from orchestrator.payloads._report import Reporter
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    generate.main(["--output", str(tmp_path / "model"), "--hidden-size", "64", "--layers", "2", "--vocab-size", "261"])
    return tmp_path / "model"


def _events(text: str) -> list[Event]:
    return [from_line(line) for line in text.splitlines()]


def test_progress_is_written_as_events_to_the_last_byte(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quantize.main(["--checkpoint", str(model), "--output", str(tmp_path / "out")])
    events = _events(capsys.readouterr().out)
    *_, last, spent = events
    assert isinstance(spent, Spent)
    assert spent.bytes_written > 0
    assert spent.peak_memory > 0
    assert isinstance(last, Progress)
    assert last.done == last.total > 0
    assert last.unit == "bytes"
    assert not [event for event in events if isinstance(event, LogLine)]


def test_several_patterns_are_excluded(model: Path, tmp_path: Path) -> None:
    options = ["--exclude", "model.layers.0.*", "--exclude", "*.down_proj", "--format", "w4a16_nvfp4"]
    quantize.main(["--checkpoint", str(model), "--output", str(tmp_path / "out"), *options])
    assert read_json(tmp_path / "out" / "hf_quant_config.json")["quantization"]["exclude_modules"] == [
        "lm_head",
        "model.embed_tokens",
        "model.layers.0*",
        "model.layers.1.mlp.down_proj",
    ]


def test_the_size_of_files_can_be_limited(model: Path, tmp_path: Path) -> None:
    quantize.main(["--checkpoint", str(model), "--output", str(tmp_path / "out"), "--shard-bytes", "100000"])
    assert len({tensor.file for tensor in Checkpoint.open(tmp_path / "out").tensors.values()}) > 1


@pytest.mark.parametrize(
    "options", [[], ["--checkpoint", "a"], ["--checkpoint", "a", "--output", "b", "--format", "x"]]
)
def test_options_that_are_missing_or_unknown_are_wrong_usage(options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        quantize.main(options)
    assert caught.value.code == 2


@pytest.mark.parametrize("number_format", ["fp8", "w4a16_nvfp4", "bf16"])
def test_input_scales_are_of_4_bit_inputs(number_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quantize.main(["--checkpoint", "a", "--output", "b", "--input-scales", "headroom", "--format", number_format])
    assert f"{number_format} has no 4-bit inputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("format_options", "named"),
    [
        (["--format", "auto", "--bits-per-weight", "5"], "auto"),
        (["--format", "w4a16_nvfp4"], "w4a16_nvfp4"),
        (["--format", "w4a16_nvfp4", "--scale-search", "mse"], "w4a16_nvfp4"),
        (["--format", "bf16"], "bf16"),
    ],
)
def test_inputs_of_quantized_layers_need_a_calibration_of_one_format(
    format_options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        quantize.main(["--checkpoint", "a", "--output", "b", "--layer-inputs", "quantized", *format_options])
    assert f"--layer-inputs quantized needs a calibration of one format, not {named}'s" in capsys.readouterr().err


_ROUNDING, _SMOOTHING, _AUTO = ["--rounding", "gptq"], ["--smoothing", "norms"], ["--bits-per-weight", "5"]
_NO_TEXT, _TEXT = "needs --calibration: tokens from a seed tell nothing of the inputs", ["--calibration", "c"]


@pytest.mark.parametrize(
    ("choice", "more", "reason"),
    [
        (_ROUNDING, ["--format", "nvfp4"], _NO_TEXT),
        (_SMOOTHING, ["--format", "nvfp4"], _NO_TEXT),
        (_ROUNDING, ["--format", "auto", *_AUTO], _NO_TEXT),
        (_ROUNDING, ["--format", "fp8", *_TEXT], "goes with --format w4a16_nvfp4, nvfp4, auto, not with fp8"),
        (_SMOOTHING, ["--format", "fp8", *_TEXT], "goes with --format w4a16_nvfp4, nvfp4, not with fp8"),
        (_SMOOTHING, ["--format", "auto", *_AUTO, *_TEXT], "not with auto"),
    ],
)
def test_what_follows_inputs_needs_text_and_blocks_of_nvfp4(
    choice: list[str], more: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        quantize.main(["--checkpoint", "a", "--output", "b", *choice, *more])
    said = capsys.readouterr().err
    assert f"error: {' '.join(choice)} " in said
    assert reason in said


def test_reports_that_follow_at_once_are_dropped_but_never_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    report = Reporter()
    for done in range(1, 101):
        report(Progress(done, 100, "bytes"))
    events = _events(capsys.readouterr().out)
    assert events[0] == Progress(1, 100, "bytes")
    assert events[-1] == Progress(100, 100, "bytes")
    assert len(events) < 50


def test_only_progress_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter()(LogLine("text"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("size", "rounding", "worth"),
    [(15 * 10**6, "nearest", False), (17 * 10**6, "nearest", True), (1, "gptq", True)],
)
def test_loops_are_compiled_where_they_save_more_than_the_compiler_takes(
    tmp_path: Path, size: int, rounding: str, worth: bool
) -> None:
    for shard in ("model-1.safetensors", "model-2.safetensors"):
        with (tmp_path / shard).open("wb") as file:
            file.truncate(size // 2)
    assert quantize.is_worth_compiling(tmp_path, rounding) is worth
