"""The dashboard, the alerts and the autoscaler ask for metrics that there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from orchestrator.bundle.gateway import trtllm
from orchestrator.bundle.gateway.metrics import Histogram, MachineState, Metrics
from orchestrator.bundle.targets import render_files
from orchestrator.bundle.targets.dashboard import dashboard
from tests.support.bundles import contents_of
from tests.support.queries import alert_queries, autoscaler_queries, dashboard_queries, metrics_of

STATE = MachineState(running=1, limit=8, at_once=8, ready=True, silence=0, free_disk=1, certificate_end=1)
OF_TENSORRT_LLM_ALONE = {"gpu_cache_usage_perc"}


def _counted() -> set[str]:
    """The series that the gateway counts without any of TensorRT-LLM."""
    metrics = Metrics(trtllm.METRICS, seconds={"/v1/completions": Histogram()})
    metrics.requests["/v1/completions", 200] += 1
    families = text_string_to_metric_families(metrics.text("llama", STATE, ""))
    return {sample.name for family in families for sample in family.samples}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return render_files(contents_of("llama3-70b-nvfp4", tmp_path_factory.mktemp("bundle")))


def _queries(files: dict[str, str]) -> list[str]:
    return [
        *dashboard_queries(files["monitoring/grafana/dashboards/server.json"]),
        *alert_queries(files["monitoring/alerts.yml"]).values(),
        *autoscaler_queries(files["kubernetes/components/autoscaling/horizontal-pod-autoscaler.yaml"]),
    ]


def test_every_query_but_the_kv_caches_has_a_metric_that_the_gateway_counts(files: dict[str, str]) -> None:
    named = {name for query in _queries(files) for name in metrics_of(query)}
    assert len(dashboard_queries(files["monitoring/grafana/dashboards/server.json"])) == 15
    assert named - _counted() == OF_TENSORRT_LLM_ALONE


def test_alerts_are_the_same_for_prometheus_its_operator_and_the_chart(files: dict[str, str]) -> None:
    yaml = YAML(typ="safe", pure=True)
    plain = yaml.load(files["monitoring/alerts.yml"])["groups"][0]["rules"]
    operator = yaml.load(files["kubernetes/components/monitoring/prometheus-rule.yaml"])["spec"]["groups"][0]["rules"]
    chart = yaml.load(files["helm/values.yaml"])["metrics"]["prometheusRule"]["rules"]
    assert plain == operator == chart
    assert {rule["alert"].removeprefix("ModelServer") for rule in plain} == {
        "NotReady", "Hangs", "KvCacheFull", "Errors", "CutStreams", "DiskFull", "CertificateEnds",
    }  # fmt: skip
    assert {rule["labels"]["severity"] for rule in plain} == {"critical", "warning"}
    assert all(rule["annotations"]["summary"].endswith(".") for rule in plain)
    assert "rule_files: [/etc/prometheus/alerts.yml]" in files["monitoring/prometheus.yml"]
    assert "source: ./monitoring/alerts.yml, target: /etc/prometheus/alerts.yml" in files["compose.yaml"]


def test_a_server_that_starts_is_not_reported_as_not_ready(files: dict[str, str]) -> None:
    rules = YAML(typ="safe", pure=True).load(files["monitoring/alerts.yml"])["groups"][0]["rules"]
    (not_ready,) = [rule for rule in rules if rule["alert"] == "ModelServerNotReady"]
    assert not_ready["for"] == "1800s"  # the recipe's startup_timeout


@pytest.mark.parametrize(
    ("overrides", "switched_on"),
    [
        ((), {"return_perf_metrics: true", "enable_iter_perf_stats: true", 'guided_decoding_backend: "xgrammar"'}),
        (("serve.options.return_perf_metrics=false",), {"return_perf_metrics: false", "enable_iter_perf_stats: true"}),
    ],
)
def test_metrics_and_guided_decoding_are_on_unless_the_recipe_says_otherwise(
    tmp_path: Path, overrides: tuple[str, ...], switched_on: set[str]
) -> None:
    config = contents_of("llama3-70b-nvfp4", tmp_path, *overrides).config
    assert switched_on <= set(config.splitlines())
    assert config.count("return_perf_metrics") == 1


def test_panels_do_not_lie_over_one_another() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in json.loads(dashboard("llama"))["panels"]]
    assert len(set(places)) == len(places)
    assert json.loads(dashboard("llama"))["title"] == "llama"
