from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import OutputMissingError
from orchestrator.payloads._performance import Level, read_report

REPORT: dict[str, Any] = {
    "engine": {"version": "1.2.1"},
    "machine": None,
    "performance": {
        "system_output_throughput_tok_s": 123.4,
        "avg_request_latency_ms": 900.0,
        "request_latency_percentiles_ms": {"p50": 880.0, "p99": None, "average": None},
    },
    "streaming_metrics": {"avg_ttft_ms": 45.0, "avg_tpot_ms": None},
}


def read(folder: Path, report: object) -> Level:
    file = folder / "report-1.json"
    file.write_text(report if isinstance(report, str) else json.dumps(report), encoding="utf-8")
    return read_report(file, 1, ("trtllm-bench",))


def test_what_a_machine_does_not_tell_is_null(tmp_path: Path) -> None:
    level = read(tmp_path, REPORT)
    assert level.tool_version == "1.2.1"
    assert level.measured["output_tokens_per_second"] == 123.4
    assert level.measured["requests_per_second"] is None
    assert level.measured["time_to_first_token_ms"]["average"] == 45.0
    assert level.measured["time_per_output_token_ms"] is None


def test_an_average_stands_beside_its_percentiles(tmp_path: Path) -> None:
    latency = read(tmp_path, REPORT).measured["request_latency_ms"]
    assert (latency["p50"], latency["p99"], latency["average"]) == (880.0, None, 900.0)


def test_a_run_that_did_not_stream_has_no_first_token(tmp_path: Path) -> None:
    report = {**REPORT, "streaming_metrics": None}
    assert read(tmp_path, report).measured["time_to_first_token_ms"] is None


def test_a_report_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputMissingError, match="wrote no report"):
        read_report(tmp_path / "report-1.json", 1, ("trtllm-bench",))


@pytest.mark.parametrize(
    "report",
    [
        "",
        "{",
        "[]",
        "{}",
        {"performance": None},
        {"performance": {"system_output_throughput_tok_s": None}},
        {"performance": {"system_output_throughput_tok_s": 0}},
        {"performance": {"system_output_throughput_tok_s": "fast"}},
    ],
)
def test_a_report_without_a_throughput_is_an_error(tmp_path: Path, report: object) -> None:
    with pytest.raises(OutputMissingError):
        read(tmp_path, report)
