"""A server is measured over HTTP: the stand-in of vLLM answers, and every level has its figures."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from orchestrator.errors import CheckFailedError, StepFailedError
from orchestrator.payloads import benchmark, measure
from tests.support.gateway import write_model
from tests.support.ports import free_port

STANDINS = Path(__file__).resolve().parents[1] / "support" / "standins"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_model(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "config.json").write_text('{"vocab_size": 512}')
    return tmp_path / "checkpoint"


def run(checkpoint: Path, *more: str, server: tuple[str, ...] = ()) -> Path:
    output, port = checkpoint.parent / "out", str(free_port())
    options = ["--checkpoint", str(checkpoint), "--output", str(output), "--port", port, "--tool", "vLLM"]
    sizes = ["--requests", "6", "--input-tokens", "4", "--output-tokens", "8", "--fact", "format=nvfp4"]
    command = [sys.executable, str(STANDINS / "vllm"), "serve", str(checkpoint), "--port", port, *server]
    measure.main([*options, *sizes, "--concurrency", "1", "--concurrency", "3", *more, "--", *command])
    return output


def test_each_level_has_figures_that_fit_together(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "STANDIN_LOG", str(checkpoint.parent / "heard"))
    output = run(checkpoint)
    found = json.loads((output / "performance.json").read_text())
    assert found["tool"] == {"name": "vLLM", "version": "0.27.1"}
    assert [level["concurrency"] for level in found["levels"]] == [1, 3]
    for level in found["levels"]:
        assert level["output_tokens_per_second"] == pytest.approx(8 * level["requests_per_second"])
        assert level["total_tokens_per_second"] == pytest.approx(12 * level["requests_per_second"])
        first, whole = level["time_to_first_token_ms"], level["request_latency_ms"]
        assert 0 < first["minimum"] <= first["p50"] <= first["p99"] <= first["maximum"] <= whole["maximum"]
        assert len(json.loads((output / level["report"]).read_text())["requests"]) == 6
    heard = [json.loads(line) for line in (checkpoint.parent / "heard").read_text().splitlines()]
    assert sum(entry["path"] == "/v1/completions" for entry in heard) == (1 + 6) + (3 + 6)  # each user warms up


def test_a_server_that_does_not_start_is_shown(checkpoint: Path) -> None:
    with pytest.raises(CheckFailedError, match="unrecognized arguments: --swap-space"):
        run(checkpoint, server=("--swap-space", "4"))


def test_a_request_that_fails_ends_the_measurement(checkpoint: Path) -> None:
    with pytest.raises(StepFailedError, match=r"answered with status 400: .*maximum context"):
        run(checkpoint, server=("--max-model-len", "8"))


def test_a_level_is_repeated_with_prompts_that_the_server_has_not_seen(checkpoint: Path) -> None:
    output = run(checkpoint, "--precision", "0.0001", "--max-runs", "3")
    for level in json.loads((output / "performance.json").read_text())["levels"]:
        assert len(level["interval"]["runs"]) == 3
        assert not level["interval"]["reached"]
    assert len(list(output.glob("report-*.json"))) == 6
    lines = (output / "dataset.jsonl").read_text().splitlines()
    prompts = [json.dumps(json.loads(line)["input_ids"]) for line in lines]
    assert len(prompts) == len(set(prompts)) == 2 * 3 * 6


def test_every_run_of_a_command_has_its_report(tmp_path: Path) -> None:
    """The tool answers another speed each time that it is called."""
    (tmp_path / "config.json").write_text('{"vocab_size": 320}')
    tool = tmp_path / "tool.py"
    tool.write_text(
        "import json, pathlib, sys\n"
        "file = pathlib.Path(sys.argv[sys.argv.index('--report_json') + 1])\n"
        "before = len(list(file.parent.glob('report-*.json')))\n"
        "speed = {'system_output_throughput_tok_s': 100.0 + before}\n"
        "file.write_text(json.dumps({'performance': speed}))\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, str(tool), "--concurrency", "8", "--report_json", str(out / "report-8.json")]
    ours = ["--checkpoint", str(tmp_path), "--output", str(out), "--precision", "0.021", "--max-runs", "5"]
    benchmark.main([*ours, "--", *command])
    (found,) = json.loads((out / "performance.json").read_bytes())["levels"]
    assert found["output_tokens_per_second"] == pytest.approx(101.5)
    assert found["interval"]["runs"] == [100.0, 101.0, 102.0, 103.0]
    assert len(list(out.glob("report-8*.json"))) == 4
