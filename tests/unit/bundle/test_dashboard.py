"""The dashboard asks for metrics that there are."""

from __future__ import annotations

import json
import re

from orchestrator.bundle.gateway.metrics import NIM_NAMES
from orchestrator.bundle.targets.dashboard import dashboard

_FUNCTIONS = {"sum", "by", "le", "rate", "max", "histogram_quantile", "status", "__rate_interval"}
_OF_THE_GATEWAY = {"nim_gateway_requests_total"}


def test_every_metric_of_the_dashboard_is_one_that_the_gateway_has() -> None:
    panels = json.loads(dashboard("llama"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    words = {word for query in queries for word in re.findall(r"[a-z_][a-z0-9_]+", query)} - _FUNCTIONS
    assert {word.removesuffix("_bucket") for word in words} == set(NIM_NAMES.values()) | _OF_THE_GATEWAY


def test_panels_do_not_lie_over_one_another() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in json.loads(dashboard("llama"))["panels"]]
    assert len(set(places)) == len(places)
    assert json.loads(dashboard("llama"))["title"] == "llama"
