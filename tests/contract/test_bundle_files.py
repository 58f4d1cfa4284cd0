"""Every file that a bundle of any shipped recipe holds, before its readers: their schemas, tools and rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helm_python.chart import Chart, lint
from helm_python.errors import HelmRenderError, HelmValuesError
from ruamel.yaml import YAML
from yamllint import linter
from yamllint.config import YamlLintConfig

from orchestrator.bundle.contents import BundleContents
from orchestrator.bundle.targets import render_files
from tests.support.bundles import BOOK, CATALOG, contents_of, served_recipes
from tests.support.environments import checkov
from tests.support.manifests import (
    VERSIONS,
    Object,
    core_problems,
    custom_problems,
    is_core,
    needs_shared,
    objects,
    operator_problems,
)

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SUPPORT = ROOT / "tests" / "support"
NAMES = served_recipes()
SAMPLES = ("tiny-llama-w4a16-nvfp4", "llama3-70b-nvfp4", "qwen3-235b-a22b-nvfp4-published")
"""One of each kind: from a seed, with an engine, on two machines."""
EVERYTHING_ON = {
    "env": [],
    "settings": {"configMap": "settings"},
    "secrets": {"secret": "files"},
    "imagePullSecrets": [{"name": "registry"}],
    "runtimeClassName": "nvidia",
    "podAnnotations": {"note": "8"},
    "service": {"type": "LoadBalancer", "port": 80, "annotations": {"note": "true"}},
    "affinity": {"podAntiAffinity": {}},
    "ingress": {"enabled": True, "host": "llama.example", "className": "nginx", "tlsSecret": "certificate"},
    "networkPolicy": {"enabled": True, "namespaces": ["ingress", "monitoring"]},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    },
    "autoscaling": {"enabled": True},
}


def nodes(name: str) -> int:
    return CATALOG.target(BOOK.load(name).recipe.target).nodes


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The rendered files of every recipe's bundle, written down."""
    root = tmp_path_factory.mktemp("bundles")
    for name in NAMES:
        write(root / name, cached_contents(name, root / "artifacts"))
    return {name: root / name for name in NAMES}


def write(folder: Path, contents: BundleContents) -> None:
    for path, text in render_files(contents).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")


@cache
def cached_contents(name: str, root: Path) -> BundleContents:
    return contents_of(name, root)


def deployable(bundles: Mapping[str, Path]) -> list[Path]:
    """Name the bundles of one machine; those of several have files of their own."""
    return [folder for folder in bundles.values() if (folder / "kubernetes").is_dir()]


def distinct(documents: Iterator[Object]) -> list[Object]:
    """Leave out what differs from another in nothing but its name, its digests and its amounts of memory."""
    found = {}
    for document in documents:
        name = document["metadata"]["name"]
        text = re.sub(r"[0-9a-f]{64}|\b[0-9]+Gi\b|[0-9a-f]{12}", "", json.dumps(document).replace(name, "NAME"))
        found[re.sub(r"[a-z][-a-z0-9]*-[0-9a-f]{8}\b", "", text)] = document
    return list(found.values())


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")  # checkov may look for a newer checkov
    environment = {**os.environ, **nowhere}
    return subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, check=False)


def kustomized(folder: Path) -> list[Object]:
    built = run(BIN / "kubectl", "kustomize", folder)
    assert built.returncode == 0, built.stderr
    assert not built.stderr, "a warning is a fault to come"
    return objects(built.stdout)


@pytest.fixture(scope="module")
def manifests(bundles: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Object]]:
    """What kubectl makes of every kustomization, with every component switched on, by recipe."""
    root = tmp_path_factory.mktemp("kustomized")
    resources = []
    for folder in deployable(bundles):
        shutil.copytree(folder, root / folder.name)
        kustomization = root / folder.name / "kubernetes" / "kustomization.yaml"
        text = kustomization.read_text()
        switched = re.sub(r"^# (components:|  - components/)", r"\1", text, flags=re.MULTILINE)
        assert switched != text
        kustomization.write_text(switched)
        resources += [f"{folder.name}/{part}" for part in ("kubernetes", "model-volume")]
    whole = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    (root / "kustomization.yaml").write_text(json.dumps(whole))
    found: dict[str, list[Object]] = {}
    for document in kustomized(root):
        labels = document["metadata"]["labels"]
        found.setdefault(labels.get("app.kubernetes.io/part-of", labels["app.kubernetes.io/name"]), []).append(document)
    return found


def test_yaml_means_the_same_to_every_version_of_it(bundles: Mapping[str, Path]) -> None:
    newest = YAML(typ="safe", pure=True)
    seen = set()
    for folder in bundles.values():
        for file in folder.rglob("*.yaml"):
            text = file.read_text(encoding="utf-8")
            if "helm/templates" in file.as_posix() or text.replace(folder.name, "") in seen:
                continue
            seen.add(text.replace(folder.name, ""))
            assert objects(text) == [document for document in newest.load_all(text) if document], file


def test_yaml_is_tidy(bundles: Mapping[str, Path]) -> None:
    rules = {"line-length": "disable", "document-start": "disable", "comments": {"min-spaces-from-content": 1}}
    config = YamlLintConfig(json.dumps({"extends": "default", "rules": {**rules, "truthy": {"check-keys": False}}}))
    for name in SAMPLES:
        for file in bundles[name].rglob("*.y*ml"):
            if "helm/templates" not in file.as_posix():
                problems = list(linter.run(file.read_text(encoding="utf-8"), config, str(file)))
                assert not problems, f"{file}: {problems}"


def test_kubernetes_takes_every_object(manifests: Mapping[str, list[Object]]) -> None:
    assert {document["kind"] for found in manifests.values() for document in found} == {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "NetworkPolicy", "PersistentVolumeClaim",
        "PodDisruptionBudget", "PrometheusRule", "Service", "ServiceMonitor",
    }  # fmt: skip
    for document in distinct(document for found in manifests.values() for document in found):
        if is_core(document):
            assert [problem for version in VERSIONS for problem in core_problems(document, version)] == []


def test_a_fault_in_an_object_is_seen(manifests: Mapping[str, list[Object]]) -> None:
    deployment = one(next(iter(manifests.values())), "Deployment")
    spoiled = json.loads(json.dumps(deployment).replace("terminationGracePeriodSeconds", "gracePeriod"))
    assert core_problems(spoiled, VERSIONS[0]) != []


def one(documents: list[Object], kind: str) -> Object:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def test_what_selects_a_server_selects_nothing_else(manifests: Mapping[str, list[Object]]) -> None:
    for found in manifests.values():
        selector = one(found, "Service")["spec"]["selector"]
        assert one(found, "Deployment")["spec"]["selector"]["matchLabels"] == selector
        assert selector.items() <= one(found, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
        assert not selector.items() <= one(found, "Job")["spec"]["template"]["metadata"]["labels"].items()
        assert selector.items() <= one(found, "Service")["metadata"]["labels"].items(), "a ServiceMonitor looks here"


def test_a_server_reads_the_volume_that_is_filled_for_it(manifests: Mapping[str, list[Object]]) -> None:
    for found in manifests.values():
        volume = one(found, "PersistentVolumeClaim")["metadata"]["name"]
        for kind in ("Deployment", "Job"):
            claims = [
                volume["persistentVolumeClaim"]["claimName"]
                for volume in one(found, kind)["spec"]["template"]["spec"]["volumes"]
                if "persistentVolumeClaim" in volume
            ]
            assert claims == [volume]


def test_an_autoscaler_alone_decides_how_many(manifests: Mapping[str, list[Object]]) -> None:
    assert all("replicas" not in one(found, "Deployment")["spec"] for found in manifests.values())


def test_settings_and_secrets_are_read_where_they_are_if_they_are(manifests: Mapping[str, list[Object]]) -> None:
    for name, found in manifests.items():
        pod = one(found, "Deployment")["spec"]["template"]["spec"]
        server = pod["containers"][0]
        mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert server["envFrom"] == [{"configMapRef": {"name": f"{name}-settings", "optional": True}}]
        assert mounts["secrets"] == "/run/secrets"
        assert volumes["secrets"]["secret"] == {"secretName": f"{name}-secrets", "optional": True}


def test_no_container_may_more_than_it_needs(manifests: Mapping[str, list[Object]]) -> None:
    for found in manifests.values():
        for kind in ("Deployment", "Job"):
            pod = one(found, kind)["spec"]["template"]["spec"]
            assert pod["automountServiceAccountToken"] is False
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"] + pod.get("initContainers", []):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }


@pytest.mark.parametrize("name", [name for name in NAMES if nodes(name) == 1])
def test_a_server_has_the_time_to_start_that_its_recipe_gives_it(name: str, bundles: Mapping[str, Path]) -> None:
    folder = bundles[name]
    timeout = cached_contents(name, folder.parent / "artifacts").recipe.checks.startup_timeout
    service = objects((folder / "nim-operator" / "nimservice.yaml").read_text())[0]["spec"]["startupProbe"]["probe"]
    runtime = objects((folder / "kserve" / "runtime.yaml").read_text())[0]["spec"]["containers"][0]["startupProbe"]
    deployment = objects((folder / "kubernetes" / "deployment.yaml").read_text())[0]
    server = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    (chart,) = [document for document in charted(folder, {}) if document["kind"] == "Deployment"]
    for probe in (service, runtime, server, chart["spec"]["template"]["spec"]["containers"][0]["startupProbe"]):
        assert probe["periodSeconds"] * probe["failureThreshold"] >= timeout


def charted(folder: Path, values: Mapping[str, Any]) -> list[Object]:
    with Chart.load(folder / "helm") as chart:
        rendered = chart.render(values=dict(values), name="demo", namespace="default")
    return [document for name, text in rendered.items() if not name.endswith(".txt") for document in objects(text)]


def test_helm_finds_no_fault_in_a_chart_and_kubernetes_none_in_what_it_renders(bundles: Mapping[str, Path]) -> None:
    needs_shared()
    rendered = []
    for folder in deployable(bundles):
        report = lint(folder / "helm", strict=True)
        assert [message["error"] for message in report["messages"]] == ["icon is recommended"]
        for values in ({}, EVERYTHING_ON):
            rendered += charted(folder, values)
    for document in distinct(iter(rendered)):
        if is_core(document):
            assert [problem for version in VERSIONS for problem in core_problems(document, version)] == []
        elif is_defined(document):
            assert custom_problems(document, "crds") == []


@pytest.mark.parametrize("name", [name for name in SAMPLES if nodes(name) == 1])
def test_a_chart_and_a_kustomization_start_the_same_server(bundles: Mapping[str, Path], name: str) -> None:
    folder = bundles[name]
    chart, plain = one(charted(folder, {}), "Deployment"), one(kustomized(folder / "kubernetes"), "Deployment")
    assert chart["spec"]["template"]["spec"] == plain["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": "two"},
        {"image": {"tag": ""}},
        {"unknown": 1},
        {"startupSeconds": 1},
        {"ingress": {"enabled": True}},
        {"httpRoute": {"enabled": True, "host": "llama.example"}},
    ],
)
def test_a_wrong_value_is_refused_by_the_charts_schema(bundles: Mapping[str, Path], values: dict[str, Any]) -> None:
    with Chart.load(bundles[SAMPLES[0]] / "helm") as chart, pytest.raises(HelmValuesError):
        chart.validate_schema(values)


def test_the_routes_of_a_chart_are_those_of_a_kustomization(tmp_path: Path) -> None:
    routes = {
        "HTTPRoute": "{type: gateway, host: a.example, gateway: b, gateway_namespace: c, proxy_namespace: d}",
        "Ingress": "{type: ingress, host: a.example, ingress_class: nginx, tls_secret: b, proxy_namespace: d}",
    }
    for kind, route in routes.items():
        folder = tmp_path / kind
        write(folder, contents_of(SAMPLES[0], tmp_path / "artifacts", f"serve.cluster.route={route}"))
        plain, chart = one(kustomized(folder / "kubernetes"), kind), one(charted(folder, {}), kind)
        service = one(charted(folder, {}), "Service")["metadata"]["name"]
        assert (
            json.loads(json.dumps(chart["spec"]).replace(service, plain["metadata"]["name"][: -len("-route")]))
            == (plain["spec"])
        )
        assert chart["metadata"].get("annotations") == plain["metadata"].get("annotations")
    with pytest.raises(HelmRenderError, match="both enabled"):
        charted(
            tmp_path / "Ingress",
            {"httpRoute": dict.fromkeys(("host", "gateway", "gatewayNamespace"), "a") | {"enabled": True}},
        )


def is_defined(document: Object) -> bool:
    """Tell whether the shared data has a definition of a custom resource: not of PrometheusRule."""
    return not is_core(document) and document["kind"] != "PrometheusRule"


def test_custom_resources_are_as_their_definitions_want_them(
    bundles: Mapping[str, Path], manifests: Mapping[str, list[Object]]
) -> None:
    needs_shared()
    files = ("kserve/runtime.yaml", "kserve/inference-service.yaml")
    resources = [
        document
        for folder in deployable(bundles)
        for file in files
        for document in objects((folder / file).read_text())
    ]
    resources += [document for found in manifests.values() for document in found if is_defined(document)]
    assert {document["kind"] for document in resources} == {
        "ServingRuntime", "InferenceService", "ServiceMonitor",
    }  # fmt: skip
    for document in distinct(iter(resources)):
        assert custom_problems(document, "crds") == []


@pytest.mark.parametrize("definitions", ["crds", "crds-v3.1.2"])
def test_the_operator_takes_every_service_released_or_not(bundles: Mapping[str, Path], definitions: str) -> None:
    needs_shared()
    services = [objects((folder / "nim-operator" / "nimservice.yaml").read_text())[0] for folder in deployable(bundles)]
    for service in services:
        assert list(operator_problems(service)) == []
    for service in distinct(iter(services)):
        assert custom_problems(service, definitions) == []


def test_a_model_in_the_image_needs_no_volume(tmp_path: Path) -> None:
    needs_shared()
    contents = replace(contents_of(SAMPLES[1], tmp_path / "artifacts"), embed_model=True)
    folder = tmp_path / "bundle"
    write(folder, contents)
    assert not (folder / "model-volume").exists()
    plain, chart = kustomized(folder / "kubernetes"), charted(folder, {})
    files = ("kserve/runtime.yaml", "kserve/inference-service.yaml", "nim-operator/nimservice.yaml")
    custom = [document for file in files for document in objects((folder / file).read_text())]
    for document in plain + chart:
        assert [problem for version in VERSIONS for problem in core_problems(document, version)] == []
    for document in custom:
        assert custom_problems(document, "crds") == []
    assert list(operator_problems(custom[-1])) == []
    assert one(chart, "Deployment")["spec"]["template"]["spec"] == one(plain, "Deployment")["spec"]["template"]["spec"]
    texts = [json.dumps(plain + chart + custom), *(file.read_text() for file in (folder / "systemd").iterdir())]
    assert not [text for text in texts if contents.volume in text]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ({"scale": {"enabled": True, "hpa": {"maxReplicas": 2}}}, "replicas"),
        ({"authSecret": ""}, "authSecret"),
        ({"storage": {"pvc": {"name": "x"}, "hostPath": "/x"}}, "exactly one"),
        ({"metrics": {"enabled": True}}, "serviceMonitor"),
    ],
)
def test_the_operators_rules_have_teeth(bundles: Mapping[str, Path], spoil: Object, told: str) -> None:
    service = objects((bundles[SAMPLES[0]] / "nim-operator" / "nimservice.yaml").read_text())[0]
    assert any(told in problem for problem in operator_problems({**service, "spec": service["spec"] | spoil}))


def test_kserve_mounts_the_volume_and_finds_the_runtime_that_is_there(bundles: Mapping[str, Path]) -> None:
    for folder in deployable(bundles):
        runtime = objects((folder / "kserve" / "runtime.yaml").read_text())[0]
        service = objects((folder / "kserve" / "inference-service.yaml").read_text())[0]
        model = service["spec"]["predictor"]["model"]
        volume = objects((folder / "model-volume" / "volume.yaml").read_text())[0]["metadata"]["name"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["storageUri"] == f"pvc://{volume}/"
        formats = [
            {key: known[key] for key in ("name", "version")} for known in runtime["spec"]["supportedModelFormats"]
        ]
        assert model["modelFormat"] in formats
        assert [container["name"] for container in runtime["spec"]["containers"]] == ["kserve-container"]


@pytest.mark.parametrize("framework", ["kubernetes", "dockerfile"])
def test_checkov_has_nothing_to_say_that_is_not_argued(
    bundles: Mapping[str, Path], manifests: Mapping[str, list[Object]], tmp_path: Path, framework: str
) -> None:
    program = checkov()
    for name in SAMPLES:
        folder = tmp_path / name
        folder.mkdir()
        for file in (
            "Dockerfile",
            "kserve/runtime.yaml",
            "kserve/inference-service.yaml",
            "nim-operator/nimservice.yaml",
        ):
            if (bundles[name] / file).is_file():
                shutil.copy(bundles[name] / file, folder)
        label = cached_contents(name, bundles[name].parent / "artifacts").name
        found = manifests.get(label, []) + (charted(bundles[name], EVERYTHING_ON) if label in manifests else [])
        for number, document in enumerate(found):
            (folder / f"{number}.yaml").write_text(json.dumps(document))
    settings = (
        "--config-file",
        SUPPORT / "checkov.yaml",
        "--skip-download",
        "--quiet",
        "--compact",
        "--output",
        "json",
    )
    checked = run(program, "--directory", tmp_path, "--framework", framework, *settings)
    report = json.loads(checked.stdout)
    failed = [
        (check["check_id"], check["check_name"], check["file_path"]) for check in report["results"]["failed_checks"]
    ]
    assert failed == [], checked.stderr
    assert report["summary"]["passed"] > 0


def test_hadolint_finds_no_fault_in_a_dockerfile(bundles: Mapping[str, Path]) -> None:
    files = [str(folder / "Dockerfile") for folder in bundles.values()]
    checked = run(BIN / "hadolint", *files)
    assert checked.stdout == checked.stderr == ""


def test_shellcheck_finds_no_fault_in_a_script(bundles: Mapping[str, Path]) -> None:
    texts = {file.read_text(): file for folder in bundles.values() for file in folder.rglob("*.sh")}
    assert len(texts) >= 2
    checked = run("shellcheck", "--enable=all", "--exclude=SC2310,SC2311,SC2312", *texts.values())
    assert checked.stdout + checked.stderr == ""


def test_compose_files_are_as_their_specification_wants_them(bundles: Mapping[str, Path]) -> None:
    files = [
        str(file)
        for folder in bundles.values()
        for file in (*folder.glob("compose*.yaml"), *folder.glob("*/compose*.yaml"))
    ]
    checked = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files)
    assert checked.returncode == 0, checked.stdout + checked.stderr


QUADLET = frozenset(
    {
        "AddDevice", "ContainerName", "DropCapability", "Environment", "EnvironmentFile", "Group", "HealthCmd",
        "HealthInterval", "HealthRetries", "HealthStartPeriod", "HealthTimeout", "Image", "NoNewPrivileges",
        "PodmanArgs", "PublishPort", "Pull", "ReadOnly", "ShmSize", "Tmpfs", "Ulimit", "User", "Volume",
    }
)  # fmt: skip
"""Keys of a `[Container]` that Podman 4.8 knows, as far as they are used."""


def test_units_have_keys_that_podman_knows_and_values_that_systemd_reads(
    bundles: Mapping[str, Path], tmp_path: Path
) -> None:
    units = []
    for folder in deployable(bundles):
        (file,) = (folder / "systemd").iterdir()
        sections = dict(re.findall(r"^\[(\w+)\]\n((?:.+\n)+)", file.read_text(), flags=re.MULTILINE))
        assert list(sections) == ["Unit", "Container", "Service", "Install"]
        assert set(re.findall(r"^(\w+)=", sections["Container"], flags=re.MULTILINE)) <= QUADLET
        plain = file.read_text().replace("[Container]", "[X-Container]")
        plain = plain.replace("[Service]", "[Service]\nType=notify\nExecStart=/bin/true")
        units.append(tmp_path / f"{file.stem}.service")
        units[-1].write_text(plain)
    checked = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units)
    told = [line for line in checked.stderr.splitlines() if str(tmp_path) in line or ".service" in line]
    assert told == []


def test_every_command_of_a_page_is_one_that_a_shell_takes(bundles: Mapping[str, Path]) -> None:
    for name in SAMPLES:
        text = (bundles[name] / "README.md").read_text(encoding="utf-8")
        commands = re.findall(r"(?:^    .*\n)+", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
        assert len(commands) >= 3
        script = "#!/bin/bash\n" + "".join(commands)
        checked = subprocess.run(
            ["shellcheck", "--exclude=SC2164", "-"], input=script, capture_output=True, text=True, check=False
        )
        assert checked.stdout == ""
