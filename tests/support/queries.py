"""The metrics that a bundle's queries name: of its dashboard, its alert rules and its autoscaler."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

_OTHER_WORDS = {
    "sum", "by", "le", "rate", "max", "min", "time", "histogram_quantile", "status", "model_name", "end",
    "__rate_interval", "failed", "cancelled", "cut", "avg_over_time",
}  # fmt: skip


def metrics_of(query: str) -> set[str]:
    """Name the metrics of a query."""
    return set(re.findall(r"[a-z_][a-z0-9_]{2,}", query)) - _OTHER_WORDS


def dashboard_queries(text: str) -> list[str]:
    """Return every query of a dashboard."""
    return [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]


def alert_queries(text: str) -> Mapping[str, str]:
    """Return the query of every alert in rules for Prometheus, by its name."""
    rules: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}


def autoscaler_queries(text: str) -> list[str]:
    """Return the metric by which a HorizontalPodAutoscaler decides."""
    document: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return [metric["pods"]["metric"]["name"] for metric in document["spec"]["metrics"]]
