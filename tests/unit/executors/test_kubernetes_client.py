"""The client of Kubernetes: what is said if it, or the kubeconfig, is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.catalog.cluster import Kubernetes, Volume
from orchestrator.errors import DependencyMissingError, KubernetesUnavailableError
from orchestrator.executors.kubernetes_client import KubernetesClient

SITE = Kubernetes(image="tool:1", volume=Volume(claim="models", path="/models"))


def test_without_the_extra_one_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightkube.config.kubeconfig", None)
    with pytest.raises(DependencyMissingError, match="lightkube is missing") as refused:
        KubernetesClient.of({}, SITE, 1.0)
    assert "[kubernetes]" in refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "clusters: [",
        json.dumps({"clusters": [], "contexts": []}),
        json.dumps(
            {
                "current-context": "a",
                "clusters": [{"name": "b", "cluster": {"server": "http://127.0.0.1:1"}}],
                "contexts": [{"name": "a", "context": {"cluster": "b"}}],
            }
        ),
    ],
)
def test_a_kubeconfig_that_names_no_cluster_and_user_is_an_error(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    with pytest.raises(KubernetesUnavailableError, match=r"kubeconfig|no Kubernetes cluster is configured"):
        KubernetesClient.of({"KUBECONFIG": str(file)}, SITE, 1.0)


def test_the_first_file_of_several_counts(tmp_path: Path) -> None:
    server = {"server": "http://127.0.0.1:1"}
    lists = {"clusters": [{"name": "b", "cluster": server}], "users": [{"name": "u", "user": {"token": "canary"}}]}
    contexts = [{"name": "a", "context": {"cluster": "b", "user": "u"}}]
    (tmp_path / "second").write_text(json.dumps({"current-context": "a", **lists, "contexts": contexts}))
    named = f"{tmp_path / 'missing'}:{tmp_path / 'second'}"
    assert KubernetesClient.of({"KUBECONFIG": named}, SITE, 1.0).config.cluster.server == server["server"]
