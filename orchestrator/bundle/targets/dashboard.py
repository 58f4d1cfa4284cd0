"""Renders a Grafana dashboard for NIM's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.bundle.templating import to_json

_WIDTH, _HEIGHT = 12, 8
_MEDIAN, _HIGH = 0.5, 0.95
_RATE = "[$__rate_interval]"

_Lines = Sequence[tuple[str, str]]
"""Each a query and its name in the legend."""


def _per_second(metric: str) -> str:
    return f"sum(rate({metric}{_RATE}))"


def _percentiles(metric: str) -> _Lines:
    """Calculate the median and a high percentile from a histogram."""
    return [
        (f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{_RATE})))", f"p{share * 100:.0f}")
        for share in (_MEDIAN, _HIGH)
    ]


_PANELS: Sequence[tuple[str, str, _Lines]] = (
    (
        "Requests",
        "short",
        [
            ("sum(num_requests_running)", "running"),
            ("sum(num_requests_waiting)", "waiting"),
            ("sum(num_request_max)", "at most"),
        ],
    ),
    ("KV cache in use", "percentunit", [("max(gpu_cache_usage_perc)", "share")]),
    (
        "Tokens per second",
        "short",
        [(_per_second("generation_tokens_total"), "written"), (_per_second("prompt_tokens_total"), "read")],
    ),
    ("Time to first token", "s", _percentiles("time_to_first_token_seconds")),
    ("Time per further token", "s", _percentiles("time_per_output_token_seconds")),
    ("Time of a whole request", "s", _percentiles("e2e_request_latency_seconds")),
    (
        "Requests per second",
        "reqps",
        [(_per_second("request_success_total"), "answered"), (_per_second("request_failure_total"), "failed")],
    ),
    (
        "Answers per second, by status",
        "reqps",
        [(f"sum by (status) (rate(nim_gateway_requests_total{_RATE}))", "{{status}}")],
    ),
)
"""Title, unit and queries of each."""


def dashboard(name: str) -> str:
    """Write the dashboard.

    Args:
        name: The model's name, as the dashboard's title.
    """
    document = {
        "uid": "server",
        "title": name,
        "schemaVersion": 39,
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "editable": False,
        "panels": [_panel(number, *panel) for number, panel in enumerate(_PANELS)],
    }
    return to_json(document)


def _panel(number: int, title: str, unit: str, lines: _Lines) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "prometheus"},
        "gridPos": {"x": number % 2 * _WIDTH, "y": number // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(lines)
        ],
    }
