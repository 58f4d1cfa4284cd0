from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation.measurements import Excluded, Measurements, Row
from evaluation.planner import main, scores
from orchestrator.planner.constants import default_constants
from tests.unit.planner.byte_configs import GEMMA3_27B
from tests.unit.planner.conftest import ROOT
from tests.unit.planner.test_speed import SPARK, TARGETS

SHARED = ROOT.parent / "shared" / "data"
"""Beside a checkout of the project where it is developed; what needs it is skipped elsewhere."""
MODELS = """\
models:
  llama:
    config:
      architectures: [LlamaForCausalLM]
      hidden_size: 4096
      intermediate_size: 14336
      num_attention_heads: 32
      num_hidden_layers: 32
      num_key_value_heads: 8
      vocab_size: 128256
      max_position_embeddings: 131072
  llama-instruct: {like: llama}
"""
HEAD = "model,params_total,params_active,format,engine,batch,isl,osl,decode_tok_s,prefill_tok_s,source"


def sort_out(folder: Path, *lines: str) -> tuple[Sequence[Row], Sequence[Excluded]]:
    (folder / "models.yaml").write_text(MODELS, encoding="utf-8")
    (folder / "spark_measurements.csv").write_text("\n".join([HEAD, *lines]) + "\n", encoding="utf-8")
    return Measurements(folder, folder / "models.yaml", SPARK).sorted_out


def test_a_plausible_row_is_used(tmp_path: Path) -> None:
    rows, excluded = sort_out(tmp_path, "llama,8,8,FP8,vLLM,1,1024,256,25.0,,https://a")
    assert [(row.kind, row.measured, row.context) for row in rows] == [("dense one", 25.0, 1152)]
    assert not excluded


def test_a_name_that_the_list_lacks_is_found_by_its_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "model_configs"
    folder.mkdir()
    (folder / "Org--Seen_config.json").write_text(json.dumps(GEMMA3_27B), encoding="utf-8")
    (folder / "Org--Odd_config.json").write_text('{"architectures": ["Odd"]}', encoding="utf-8")
    lines = [
        f"{name},27,27,FP8,vLLM,1,1024,256,6.0,,https://a" for name in ("Org/Seen", "Seen", "Org/Odd", "Other/Seen")
    ]
    rows, excluded = sort_out(tmp_path, *lines)
    assert [row.model for row in rows] == ["Org/Seen", "Seen"]
    assert {row.known.backbone for row in rows} == {"Org--Seen"}
    assert [one.line for one in excluded] == [4, 5]


def test_a_row_faster_than_the_bandwidth_allows_is_listed_and_not_used(tmp_path: Path) -> None:
    rows, excluded = sort_out(tmp_path, "llama,8,8,BF16,vLLM,1,1024,256,25.0,,https://a")
    assert not rows
    assert "physics forbids 25 tok/s" in excluded[0].reason


def test_what_the_same_server_did_otherwise_is_not_used_either(tmp_path: Path) -> None:
    forbidden = "llama,8,8,BF16,vLLM,1,1024,256,25.0,,https://a/one.md"
    beside = "llama,8,8,BF16,vLLM,10,1024,256,90.0,,https://a/two.md"
    elsewhere = "llama,8,8,BF16,vLLM,1,1024,256,13.0,,https://b/one.md"
    rows, excluded = sort_out(tmp_path, forbidden, beside, elsewhere)
    assert [row.line for row in rows] == [4]
    assert [one.line for one in excluded] == [2, 3]


def test_an_impossible_prefill_does_not_spoil_its_decode(tmp_path: Path) -> None:
    rows, excluded = sort_out(tmp_path, "llama,8,8,NVFP4,TensorRT-LLM,1,2048,128,38.0,65000,https://a")
    assert [row.prefill for row in rows] == [False]
    assert "tensor cores" in excluded[0].reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("other,8,8,FP8,vLLM,1,,,20,,https://a", "dimensions"),
        ("llama,8,8,,vLLM,1,,,20,,https://a", "no format"),
        ("llama,8,8,EXL3,vLLM,1,,,20,,https://a", "EXL3"),
        ("llama,8,8,FP8,,1,,,20,,https://a", "no runtime"),
        ("llama,8,8,FP8,Ollama,1,,,20,,https://a", "Ollama"),
        ("llama,8,8,FP8,vLLM,1,,,20,,https://a spec decode", "draft"),
    ],
)
def test_a_row_that_says_too_little_is_listed_with_the_reason(tmp_path: Path, line: str, reason: str) -> None:
    rows, excluded = sort_out(tmp_path, line)
    assert not rows
    assert reason in excluded[0].reason


def test_no_model_helps_to_predict_itself_nor_another_of_its_dimensions(tmp_path: Path) -> None:
    slow = "llama,8,8,FP8,vLLM,1,1024,256,{},,https://a"
    twin = "llama-instruct,8,8,FP8,vLLM,1,1024,256,{},,https://b"
    expected = []
    for speed in (20.0, 28.0):
        rows, _ = sort_out(tmp_path, slow.format(speed), twin.format(speed))
        expected += [score.expected for score in scores(rows, TARGETS, default_constants())]
    assert len(set(expected)) == 1


def test_a_runtime_that_is_left_out_does_not_help_to_predict_itself(tmp_path: Path) -> None:
    other = "llama,8,8,FP8,SGLang,1,1024,256,{},,https://b"
    expected = []
    for speed in (20.0, 28.0):
        rows, _ = sort_out(tmp_path, "llama,8,8,FP8,vLLM,1,1024,256,24,,https://a", other.format(speed))
        expected.append([s.expected for s in scores(rows, TARGETS, default_constants(), lambda row: row.runtime)])
    (of_vllm, of_sglang), (again, same) = expected
    assert of_sglang == same
    assert of_vllm < again  # what the other runtime reaches is all that is known


def test_without_measurements_it_says_so_and_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["evaluation.planner", str(tmp_path)])
    main()
    assert "nothing to score" in capsys.readouterr().out


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published measurements are not part of the repository")
def test_the_goals_are_met(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["evaluation.planner", str(SHARED)])
    main()
    printed = capsys.readouterr().out
    assert "\n  met " in printed
    assert "NOT MET" not in printed
