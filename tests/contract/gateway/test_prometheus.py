"""A real Prometheus with a bundle's own files: it reads the gateway, answers the dashboard and raises the alerts."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from orchestrator.bundle.targets.alerts import alerts
from tests.support.docker_daemon import do_without
from tests.support.gateway import Deployment, deployed
from tests.support.ports import free_port
from tests.support.queries import dashboard_queries

_MONITORING = Path(__file__).parents[2] / "golden" / "bundles" / "llama3-70b-nvfp4" / "monitoring"
_DASHBOARD = _MONITORING / "grafana" / "dashboards" / "server.json"


def _program(name: str) -> str:
    return shutil.which(name) or do_without(f"{name}: apt-get install prometheus")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prometheus with the bundle's files; changed are the server's address, the folder and the pace."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    shutil.copytree(_MONITORING, folder, dirs_exist_ok=True)
    text = (folder / "prometheus.yml").read_text()
    for theirs, ours in (
        ("server:8000", f"127.0.0.1:{deployment.port}"),
        ("5s", "1s"),
        ("/etc/prometheus", str(folder)),
    ):
        assert text.count(theirs) == 1
        text = text.replace(theirs, ours)
    (folder / "prometheus.yml").write_text(text)
    options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    with (folder / "log").open("w") as log:
        command = (_program("prometheus"), *options, f"--web.listen-address=127.0.0.1:{port}")
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deployment.wait_for(lambda: _is_ready(port))
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(port: int) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"http://127.0.0.1:{port}/-/ready", timeout=30).is_success
    return False


def _got(address: str) -> httpx2.Response:
    return httpx2.get(address, timeout=30).raise_for_status()


def _asked(prometheus: str, query: str) -> list[float]:
    text = query.replace("$__rate_interval", "10s")  # Grafana: at least four times the pace
    document = httpx2.get(f"{prometheus}/query", params={"query": text}, timeout=30).raise_for_status().json()
    return [float(series["value"][1]) for series in document["data"]["result"]]


def test_every_query_of_the_dashboard_has_an_answer_under_load(deployment: Deployment, prometheus: str) -> None:
    queries = dashboard_queries(_DASHBOARD.read_text())
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(4) as clients:
        while True:
            asked = [
                clients.submit(deployment.ask, "hello", stream=stream, max_tokens=8) for stream in (True, False) * 4
            ]
            assert {one.result()[0] for one in asked} == {200}
            found = {query: _asked(prometheus, query) for query in queries}
            empty = [query for query, values in found.items() if not values or any(map(math.isnan, values))]
            if not empty or time.monotonic() > deadline:
                break
    assert empty == []
    assert len(queries) == 15
    assert _asked(prometheus, "sum(increase(request_success_total[1m]))")[0] > 0


def test_the_rules_are_loaded_and_nothing_fires_on_a_healthy_server(prometheus: str) -> None:
    groups = _got(f"{prometheus}/rules").json()["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert list(rules) == [alert.name for alert in alerts(1800, "trtllm-serve")]
    assert {name for name, rule in rules.items() if rule["health"] == "err"} == set()
    assert _got(f"{prometheus}/alerts").json()["data"]["alerts"] == []


_MODEL = '{model_name="m"}'
_FIRING: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "ModelServerNotReady": (
        {f"nim_gateway_runtime_ready{_MODEL}": "0x60"},
        {f"nim_gateway_runtime_ready{_MODEL}": "0x20 1x40"},
    ),
    "ModelServerHangs": (
        {f"nim_gateway_runtime_silence_seconds{_MODEL}": "0+60x60"},
        {f"nim_gateway_runtime_silence_seconds{_MODEL}": "0 60 119 0x57"},
    ),
    "ModelServerKvCacheFull": (
        {f"gpu_cache_usage_perc{_MODEL}": "0.99x60"},
        {f"gpu_cache_usage_perc{_MODEL}": "0.97x60"},
    ),
    "ModelServerErrors": (
        {
            'nim_gateway_model_requests_total{model_name="m",end="failed"}': "0+6x60",
            'nim_gateway_model_requests_total{model_name="m",end="succeeded"}': "0+94x60",
            'nim_gateway_model_requests_total{model_name="m",end="cancelled"}': "0+900x60",
        },
        {
            'nim_gateway_model_requests_total{model_name="m",end="failed"}': "0+4x60",
            'nim_gateway_model_requests_total{model_name="m",end="succeeded"}': "0+96x60",
        },
    ),
    "ModelServerCutStreams": (
        {'nim_gateway_model_requests_total{model_name="m",end="cut"}': "0+1x60"},
        {'nim_gateway_model_requests_total{model_name="m",end="cut"}': "7x60"},
    ),
    "ModelServerDiskFull": (
        {f"nim_gateway_free_disk_bytes{_MODEL}": "1900000000x60"},
        {f"nim_gateway_free_disk_bytes{_MODEL}": "2100000000x60"},
    ),
    "ModelServerCertificateEnds": (
        {f"nim_gateway_certificate_end_timestamp_seconds{_MODEL}": f"{13 * 86400}x90"},
        {f"nim_gateway_certificate_end_timestamp_seconds{_MODEL}": f"{15 * 86400}x90"},
    ),
}
"""For each alert, series of a value a minute with which it fires in the end, and with which it does not."""


@pytest.mark.parametrize("name", [alert.name for alert in alerts(1800, "trtllm-serve")])
def test_an_alert_fires_when_it_should_and_not_before(tmp_path: Path, name: str) -> None:
    alert = next(alert for alert in alerts(1800, "trtllm-serve") if alert.name == name)
    lasting = sum(
        int(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"(\d+)([smh])", alert.lasting)
    )
    rules = (_MONITORING / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(rules)
    labels = {"severity": alert.severity, "model_name": "m"}
    fires: dict[str, Any] = {"exp_labels": labels, "exp_annotations": {"summary": alert.summary}}

    def case(series: dict[str, str], *expected: tuple[int, list[dict[str, Any]]]) -> dict[str, Any]:
        return {
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
            "alert_rule_test": [
                {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": alerts} for minute, alerts in expected
            ],
        }

    ill, well = _FIRING[name]
    last = max(59, lasting // 60 + 10)
    tests = [case(ill, (0, []), (last, [fires])), case(well, *((minute, []) for minute in range(0, last, 5)))]
    document = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yml").write_text(json.dumps(document))
    done = subprocess.run(
        (_program("promtool"), "test", "rules", "test.yml"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
