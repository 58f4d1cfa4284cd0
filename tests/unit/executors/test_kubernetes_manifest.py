"""The manifest of a Kubernetes job: what it requests and runs, what it must not show, and that Kubernetes takes it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.catalog.cluster import Cluster
from orchestrator.errors import ClusterInvalidError
from orchestrator.executors.job import Inside, Job, Mount
from orchestrator.executors.kubernetes_manifest import (
    NETWORK,
    ManifestWriter,
    Object,
    as_yaml,
    network_policy,
    submit_text,
)
from orchestrator.executors.scheduler import Resources
from tests.support.manifests import VERSIONS, core_problems, objects

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "kubernetes" / "job.yaml"
RESOURCES = Resources(minutes=90, memory=3 << 30, gpus=2)
SECRET = "hf_canary_0123456789"
WHOLE: dict[str, Any] = {
    "image": "registry.example/orchestrator@sha256:" + "0" * 64,
    "volume": {"claim": "models", "path": "/models"},
    "namespace": "team-a",
    "secrets": {"HF_TOKEN": {"name": "hf", "key": "token"}},
    "pull_secrets": ["registry"],
    "queue": "team-a",
    "node_selector": {"gpu": "h100"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priority_class": "batch",
    "runtime_class": "nvidia",
    "cpus": 8,
    "steps": {"verify": {"minutes": 2, "memory_gb": 1.5, "queue": "short"}},
}
JOB = Job(
    step="quantize",
    key="c0ffee",
    recipe="tiny-llama",
    argv=("python3", "a b.py", "$HOME $(HOME)", Inside("/input", "weights")),
    output=Path("/models/store/jobs/tiny-llama-0123/quantize/out"),
    mounts=(Mount(Path("/models/in put"), "/input"),),
    environment={"MODEL": "x y"},
    gpus=2,
)


def write(job: Job = JOB, environment: dict[str, str] | None = None, **settings: object) -> Object:
    cluster = Cluster.model_validate_json(json.dumps({"schema_version": 1, "kubernetes": {**WHOLE, **settings}}))
    assert cluster.kubernetes
    return ManifestWriter(cluster, cluster.kubernetes, environment or {}, 30).write(job, "tiny-llama-0123", RESOURCES)


def pod(manifest: Object) -> Object:
    found: Object = manifest["spec"]["template"]["spec"]
    return found


def variables(manifest: Object) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod(manifest)["containers"][0]["env"]}


def test_the_manifest_is_the_golden_one() -> None:
    text = as_yaml(write())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(version: str) -> None:
    with_network = replace(JOB, network=True, gpus=0, secrets={"HF_TOKEN": SECRET})
    least = dict.fromkeys(("queue", "priority_class", "runtime_class", "cpus"))
    plain = write(with_network, **least, node_selector={}, tolerations=[], pull_secrets=[])
    for document in (write(), plain, network_policy("team-a")):
        assert core_problems(document, version) == []
        assert objects(as_yaml(document)) == [document]


def test_a_fault_in_a_manifest_is_seen() -> None:
    spoiled = json.loads(json.dumps(write()).replace("activeDeadlineSeconds", "activeDeadline"))
    assert core_problems(spoiled, VERSIONS[0]) != []


def test_a_step_s_own_settings_replace_the_plan_s() -> None:
    manifest = write(replace(JOB, step="verify", gpus=0))
    assert pod(manifest)["activeDeadlineSeconds"] == 60 * (2 + 30)
    assert pod(manifest)["containers"][0]["resources"]["limits"]["memory"] == "1431Mi"
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "short"


def test_kueue_gets_a_suspended_job_and_nobody_else_does() -> None:
    assert write()["spec"]["suspend"] is True
    without = write(queue=None)
    assert "suspend" not in without["spec"]
    assert "kueue.x-k8s.io/queue-name" not in without["metadata"]["labels"]


def test_a_policy_selects_the_pods_of_steps_without_network_alone() -> None:
    selector = network_policy("team-a")["spec"]["podSelector"]["matchLabels"]
    isolated = write()["spec"]["template"]["metadata"]["labels"]
    connected = write(replace(JOB, network=True))["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= isolated.items()
    assert not selector.items() <= connected.items()
    assert (isolated[NETWORK], connected[NETWORK]) == ("none", "outgoing")
    spec = network_policy("team-a")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert not {"egress", "ingress"} & spec.keys(), "no rule: nothing is allowed"


def test_a_token_is_a_reference_only() -> None:
    job = replace(JOB, network=True, secrets={"HF_TOKEN": SECRET})
    manifest = write(job, {"HF_TOKEN": SECRET, "NGC_API_KEY": SECRET})
    assert SECRET not in as_yaml(manifest)
    assert variables(manifest)["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert "HF_TOKEN" not in variables(write()), "a step that does not use it does not get it"


def test_a_secret_without_a_reference_is_refused() -> None:
    with pytest.raises(ClusterInvalidError, match=r"quantize uses HF_TOKEN, and cluster\.yaml names no Secret"):
        write(replace(JOB, secrets={"HF_TOKEN": SECRET}), secrets={})
    manifest = write(replace(JOB, secrets={"HF_TOKEN": ""}), secrets={})
    assert "HF_TOKEN" not in variables(manifest), "a public model needs none"


def test_a_proxy_s_password_is_refused_or_a_reference() -> None:
    proxy = {"HTTPS_PROXY": "http://me:pass@proxy:8080"}
    connected = replace(JOB, network=True)
    with pytest.raises(ClusterInvalidError, match="HTTPS_PROXY holds a password") as refused:
        write(connected, proxy)
    assert "kubernetes.secrets.HTTPS_PROXY" in refused.value.hint
    manifest = write(connected, proxy, secrets={"HTTPS_PROXY": {"name": "proxy", "key": "url"}})
    assert "pass@" not in as_yaml(manifest)
    assert variables(manifest)["HTTPS_PROXY"] == {"secretKeyRef": {"name": "proxy", "key": "url"}}


def test_the_hub_s_cache_is_on_the_volume_and_this_machine_s_folders_are_not_in_the_pod() -> None:
    here = {
        "HOME": "/home/me",
        "PATH": "/bin",
        "HF_HOME": "/home/me/hf",
        "LANG": "C.UTF-8",
        "HF_ENDPOINT": "https://hub",
    }
    found = variables(write(replace(JOB, network=True), here))
    own = {"HOME": "/tmp", "TMPDIR": "/tmp", "HF_HOME": "/models/huggingface"}
    assert found == {**own, "LANG": "C.UTF-8", "HF_ENDPOINT": "https://hub"}
    there = variables(write(replace(JOB, network=True), {"HF_HOME": "/models/hf"}))
    assert there["HF_HOME"] == "/models/hf"
    assert variables(write())["HF_HUB_OFFLINE"] == "1"


def test_a_folder_that_pods_do_not_see_is_refused() -> None:
    with pytest.raises(ClusterInvalidError, match="/home/me/store/out is not on the volume that pods see at /models"):
        write(replace(JOB, output=Path("/home/me/store/out")))


def test_no_pod_is_root_or_has_a_token_of_the_cluster() -> None:
    spec = pod(write())
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["automountServiceAccountToken"] is False
    own = spec["containers"][0]["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    with pytest.raises(ValueError, match="user"):
        write(user=0)


def test_the_script_that_applies_by_hand_waits_for_each_job() -> None:
    cluster = Cluster.model_validate_json(json.dumps({"schema_version": 1, "kubernetes": WHOLE}))
    assert cluster.kubernetes
    text = submit_text([(JOB, "first"), (replace(JOB, step="verify"), "second")], cluster.kubernetes)
    lines = [line for line in text.splitlines() if line.startswith(("kubectl apply", "succeeds job"))]
    assert lines == [
        "kubectl apply -f network-policy.yaml",
        "kubectl apply -f quantize/job.yaml",
        "succeeds job/first",
        "kubectl apply -f verify/job.yaml",
        "succeeds job/second",
    ]
