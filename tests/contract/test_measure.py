"""A server is measured over HTTP: the stand-in of vLLM answers, and every level has its figures."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from orchestrator.errors import CheckFailedError, StepFailedError
from orchestrator.payloads import measure
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
    assert sum(entry["path"] == "/v1/completions" for entry in heard) == 1 + 2 * 6  # one to warm up


def test_a_server_that_does_not_start_is_shown(checkpoint: Path) -> None:
    with pytest.raises(CheckFailedError, match="unrecognized arguments: --swap-space"):
        run(checkpoint, server=("--swap-space", "4"))


def test_a_request_that_fails_ends_the_measurement(checkpoint: Path) -> None:
    with pytest.raises(StepFailedError, match=r"answered with status 400: .*maximum context"):
        run(checkpoint, server=("--max-model-len", "8"))
