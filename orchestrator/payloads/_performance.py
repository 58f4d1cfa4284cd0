"""Converts trtllm-bench's reports of all versions to one form. A figure that is not reported is null.

On GB10 the block about the machine can be absent and the clocks null; streaming figures come only with `--streaming`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.errors import OutputMissingError
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PERCENTILES = ("p50", "p90", "p95", "p99", "minimum", "maximum", "average")


@frozen
class Level:
    """What was measured at one level of concurrency."""

    concurrency: int
    command: Sequence[str]
    report: str
    """The file that trtllm-bench wrote, beside performance.json."""
    measured: Mapping[str, Any]
    """Tokens and requests per second; latencies in milliseconds."""
    tool_version: str | None
    """The version of TensorRT-LLM that the report names."""
    interval: Mapping[str, Any] | None = None
    """Tokens per second of each run, and how well their mean is known; None: it was measured once."""


def read_report(file: Path, concurrency: int, command: Sequence[str]) -> Level:
    """Read one report.

    Args:
        file: The report.
        concurrency: The requested level.
        command: The command that wrote it.

    Raises:
        OutputMissingError: There is none, it is not JSON, or it has no output throughput.
    """
    report = _parse(file)
    performance = _block(report, "performance")
    streaming = _block(report, "streaming_metrics")
    throughput = _number(performance, "system_output_throughput_tok_s")
    if throughput is None or throughput <= 0:
        message = f"{file}: performance.system_output_throughput_tok_s: expected a number above 0; found {throughput}"
        raise OutputMissingError(message, hint="see the step's log: a request may have failed")
    measured = {
        "output_tokens_per_second": throughput,
        "total_tokens_per_second": _number(performance, "system_total_throughput_tok_s"),
        "output_tokens_per_second_per_user": _number(performance, "output_throughput_per_user_tok_s"),
        "output_tokens_per_second_per_gpu": _number(performance, "output_throughput_per_gpu_tok_s"),
        "requests_per_second": _number(performance, "request_throughput_req_s"),
        "request_latency_ms": _spread(performance, "avg_request_latency_ms", "request_latency_percentiles_ms"),
        "time_to_first_token_ms": _spread(streaming, "avg_ttft_ms", "ttft_percentiles"),
        "time_per_output_token_ms": _spread(streaming, "avg_tpot_ms", "tpot_percentiles"),
    }
    version = _block(report, "engine").get("version")
    return Level(concurrency, command, file.name, measured, version if isinstance(version, str) else None)


def _parse(file: Path) -> Mapping[str, Any]:
    try:
        report = json.loads(file.read_bytes())
    except FileNotFoundError:
        message = f"{file}: trtllm-bench ended with status 0 and wrote no report"
        raise OutputMissingError(message) from None
    except ValueError as error:
        message = f"{file}: not JSON: {error}"
        raise OutputMissingError(message) from error
    if not isinstance(report, dict):
        message = f"{file}: expected an object; found {type(report).__name__}"
        raise OutputMissingError(message)
    return report


def _block(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = report.get(name)
    return block if isinstance(block, dict) else {}


def _number(block: Mapping[str, Any], name: str) -> float | None:
    value = block.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _spread(block: Mapping[str, Any], average: str, percentiles: str) -> dict[str, float | None] | None:
    """An average with its percentiles; None if neither is reported."""
    found = {name: _number(_block(block, percentiles), name) for name in _PERCENTILES}
    if found["average"] is None:
        found["average"] = _number(block, average)
    return found if any(value is not None for value in found.values()) else None
