"""Every setting reaches every target: variables of the recipe and of `.env`, keys, certificates, limits."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.bundle.gateway.variables import VARIABLES
from orchestrator.bundle.targets import TARGETS, choose, left_out, render_files
from orchestrator.errors import BundleTargetError, RecipeInvalidError
from orchestrator.recipe.model import Cluster, GatewayRoute, IngressRoute
from tests.support.bundles import contents_of
from tests.support.manifests import VERSIONS, core_problems

ONE, TWO = "llama3-70b-nvfp4", "qwen3-235b-a22b-nvfp4-published"
ODD = 'a "quoted" word, $HOME, 100 %, back\\slash'
OF_THE_CONTAINER = {
    "NIM_SERVER_PORT", "NIM_HTTP_API_PORT", "NIM_HEALTH_PORT", "NIM_GATEWAY_HOST", "NIM_GATEWAY_RUNTIME_PORT",
    "NIM_GATEWAY_ENGINE_PORT", "NIM_GATEWAY_LAUNCHER", "NIM_GATEWAY_ETC", "NIM_CACHE_PATH", "NIM_MODEL_PATH",
    "NIM_MODEL_NAME",
}  # fmt: skip
"""Ports, folders and programs in the container are none of a user's."""
SETTINGS = [
    name for variable in VARIABLES for name in (variable.name, *variable.aliases) if name not in OF_THE_CONTAINER
]
"""Every variable that a bundle's page lists, under each of its names."""
OF_A_SCHEDULER = {"NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS", "NIM_GATEWAY_DRAIN_SECONDS", "NIM_JSONL_LOGGING"}
"""Fixed where no person waits for the end or reads the log: the grace of the same file is made for them."""
WITHOUT_FILES = {"nim-operator"}
"""The operator mounts nothing besides the model."""
PLACES = (*TARGETS, "nim-llm")
"""The targets, and NVIDIA's chart, for which one of them has values."""

IN_CLUSTERS = {"kubernetes", "helm", "nim-operator", "kserve"}
ROUTES: dict[str, dict[str, object]] = {
    "gateway": {
        "type": "gateway",
        "host": "one.example",
        "gateway": "two",
        "gateway_namespace": "three",
        "listener": "four",
        "proxy_namespace": "five",
    },
    "ingress": {
        "type": "ingress",
        "host": "one.example",
        "ingress_class": "two",
        "tls_secret": "three",
        "annotations": {"four": "4"},
        "proxy_namespace": "five",
    },
}
"""A value for every field of a route."""
NGINX = ROUTES["ingress"] | {"ingress_class": "nginx", "annotations": None}
WITHOUT_NETWORK_POLICY = {"nim-operator", "kserve"}
"""Nothing there keeps the pods of a proxy out."""


@dataclass(frozen=True)
class Reached:
    """What reaches a server."""

    fixed: dict[str, str]
    """Variables with a value in the files."""
    settings: frozenset[str] | None
    """Variables that a user may set outside the files; None: any."""
    secrets: str
    """Where the files of secrets/ are; empty if nowhere."""


def _yaml(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def _of_container(container: dict[str, Any], volumes: list[dict[str, Any]]) -> Reached:
    assert container["envFrom"][0]["configMapRef"] == {"name": f"{ONE}-settings", "optional": True}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (secret,) = [volume for volume in volumes if volume["name"] == "secrets"]
    assert secret["secret"] == {"secretName": f"{ONE}-secrets", "optional": True}
    return Reached({each["name"]: each["value"] for each in container["env"]}, None, mounts["secrets"])


def _of_compose(text: str, service: str) -> Reached:
    described = _yaml(text)["services"][service]
    given = {name: value.replace("$$", "$") for name, value in described["environment"].items()}
    fixed = {name: value for name, value in given.items() if not value.startswith("${")}
    settings = frozenset(name for name, value in given.items() if value.startswith("${" + name))
    (secrets,) = [volume["target"] for volume in described["volumes"] if volume["source"].endswith("/secrets")]
    return Reached(fixed, settings, secrets)


def _of_unit(text: str) -> Reached:
    lines = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    pairs = [json.loads(line).replace("%%", "%").replace("$$", "$").partition("=") for line in lines]
    assert re.search(rf"^EnvironmentFile=-/etc/{ONE}/env$", text, re.MULTILINE)
    (secrets,) = re.findall(rf"^Volume=/etc/{ONE}/secrets:([^:]+):ro,z$", text, re.MULTILINE)
    return Reached({name: value for name, _, value in pairs}, None, secrets)


def _of_entries(entries: list[dict[str, Any]]) -> tuple[dict[str, str], frozenset[str]]:
    fixed = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
    references = [(entry["name"], entry["valueFrom"]["configMapKeyRef"]) for entry in entries if "value" not in entry]
    for name, reference in references:
        assert reference == {"name": f"{ONE}-settings", "key": name, "optional": True}
    return fixed, frozenset(name for name, _ in references)


def _of_operator(text: str) -> Reached:
    entries = _yaml(text)["spec"]["env"]
    (keys,) = [entry["valueFrom"] for entry in entries if "secretKeyRef" in entry.get("valueFrom", {})]
    assert keys == {"secretKeyRef": {"name": f"{ONE}-secrets", "key": "api_keys", "optional": True}}
    fixed, settings = _of_entries([entry for entry in entries if entry.get("valueFrom") != keys])
    return Reached(fixed, settings | {"NIM_GATEWAY_API_KEYS"}, "")


def _of_nim_llm(text: str) -> Reached:
    values = _yaml(text)
    assert values["extraVolumes"] == {"secrets": {"secret": {"secretName": f"{ONE}-secrets", "optional": True}}}
    fixed, settings = _of_entries(values["env"])
    return Reached(fixed, settings, values["extraVolumeMounts"]["secrets"]["mountPath"])


def _of_chart(files: dict[str, str]) -> Reached:
    values, deployment = _yaml(files["helm/values.yaml"]), files["helm/templates/deployment.yaml"]
    assert values["settings"] == {"configMap": f"{ONE}-settings"}
    assert "configMapRef: {name: {{ .Values.settings.configMap }}, optional: true}" in deployment
    assert values["secrets"] == {"secret": f"{ONE}-secrets"}
    assert "secret: {secretName: {{ .Values.secrets.secret }}, optional: true}" in deployment
    (secrets,) = re.findall(r"{name: secrets, mountPath: ([^,]+), readOnly: true}", deployment)
    return Reached({entry["name"]: entry["value"] for entry in values["env"]}, None, secrets)


def _reached(tmp_path: Path, override: str) -> dict[str, Reached]:
    files = render_files(contents_of(ONE, tmp_path, override))
    two = render_files(contents_of(TWO, tmp_path, override))
    pod = _yaml(files["kubernetes/deployment.yaml"])["spec"]["template"]["spec"]
    runtime = _yaml(files["kserve/runtime.yaml"])["spec"]
    return {
        "compose": _of_compose(files["compose.yaml"], "server"),
        "two-sparks": _of_compose(two["two-sparks/compose.yaml"], "node"),
        "systemd": _of_unit(files[f"systemd/{ONE}.container"]),
        "kubernetes": _of_container(pod["containers"][0], pod["volumes"]),
        "helm": _of_chart(files),
        "nim-operator": _of_operator(files["nim-operator/nimservice.yaml"]),
        "kserve": _of_container(runtime["containers"][0], runtime["volumes"]),
        "nim-llm": _of_nim_llm(files["helm/nim-llm-values.yaml"]),
    }


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reached]:
    return _reached(tmp_path_factory.mktemp("bundle"), f"serve.environment.MY_VARIABLE={json.dumps(ODD)}")


@pytest.mark.parametrize("target", PLACES)
def test_a_variable_of_the_recipe_reaches_the_server_as_it_was_written(
    reached: dict[str, Reached], target: str
) -> None:
    assert reached[target].fixed["MY_VARIABLE"] == ODD


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("target", PLACES)
def test_a_setting_can_be_made_without_editing_a_file(reached: dict[str, Reached], target: str, setting: str) -> None:
    settings = reached[target].settings
    assert setting not in reached[target].fixed or setting in OF_A_SCHEDULER
    assert settings is None or setting in settings or setting in reached[target].fixed


@pytest.mark.parametrize("target", PLACES)
def test_keys_and_certificates_have_the_same_path_everywhere(reached: dict[str, Reached], target: str) -> None:
    assert reached[target].secrets == ("" if target in WITHOUT_FILES else "/run/secrets")


@pytest.fixture(scope="module")
def reached_by_the_recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reached]:
    return _reached(tmp_path_factory.mktemp("bundle"), "serve.environment.NIM_LOG_LEVEL=DEBUG")


@pytest.mark.parametrize("target", PLACES)
def test_a_setting_that_the_recipe_makes_is_made_once(reached_by_the_recipe: dict[str, Reached], target: str) -> None:
    found = reached_by_the_recipe[target]
    assert found.fixed["NIM_LOG_LEVEL"] == "DEBUG"
    assert found.settings is None or "NIM_LOG_LEVEL" not in found.settings


def test_comments_have_spaces_between_their_words(tmp_path: Path) -> None:
    for embed in (True, False):
        contents = replace(contents_of(ONE, tmp_path / str(embed)), embed_model=embed)
        for name, text in render_files(contents).items():
            comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
            glued = [line for line in comments if re.search(r"thenrun|[a-z]\.[A-Z][a-z]", line)]
            assert not glued, (name, glued)


def _cluster(**settings: object) -> str:
    return f"serve.cluster={json.dumps(settings)}"


def _of(target: str, files: dict[str, str]) -> dict[str, str]:
    """The files of a target without their comments."""
    found = {name: text for name, text in files.items() if name.startswith(f"{target}/")}
    return {name: re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE) for name, text in found.items()}


def test_every_field_of_a_cluster_has_a_value_here() -> None:
    assert set(Cluster.model_fields) == {"replicas", "route"}
    assert set(GatewayRoute.model_fields) == set(ROUTES["gateway"])
    assert set(IngressRoute.model_fields) == set(ROUTES["ingress"])


@pytest.mark.parametrize("kind", ROUTES)
@pytest.mark.parametrize("target", TARGETS)
def test_each_field_of_a_route_reaches_a_target_or_is_refused_by_it(tmp_path: Path, target: str, kind: str) -> None:
    contents = contents_of(ONE, tmp_path, _cluster(route=ROUTES[kind]))
    if target not in IN_CLUSTERS:
        with pytest.raises(BundleTargetError, match=f"cannot be deployed on {target}: "):
            choose(contents, [target])
        return
    text = "".join(_of(target, render_files(contents)).values())
    for name, value in ROUTES[kind].items():
        words = [name for pair in value.items() for name in pair] if isinstance(value, dict) else [str(value)]
        dropped = [word for word in words if word not in text] if name != "type" else []
        assert not dropped or (name == "proxy_namespace" and target in WITHOUT_NETWORK_POLICY), name


@pytest.mark.parametrize("target", TARGETS)
def test_the_number_of_servers_reaches_a_target_or_is_refused_by_it(tmp_path: Path, target: str) -> None:
    contents = contents_of(ONE, tmp_path, _cluster(replicas=3))
    if target not in IN_CLUSTERS:
        assert target in left_out(contents) or TARGETS[target].machines != contents.nodes
        with pytest.raises(BundleTargetError, match=f"cannot be deployed on {target}: "):
            choose(contents, [target])
        return
    files = render_files(contents)
    text = "".join(_of(target, files).values())
    assert re.search(r"\b(replicas|minReplicas): 3$", text, re.MULTILINE)
    assert "topologyKey: kubernetes.io/hostname" in text
    assert _yaml(files["model-volume/volume.yaml"])["spec"]["accessModes"] == ["ReadWriteMany"]


def test_servers_of_a_deployment_are_those_that_are_spread(tmp_path: Path) -> None:
    pods = _yaml(render_files(contents_of(ONE, tmp_path))["kubernetes/deployment.yaml"])["spec"]["template"]
    (spread,) = pods["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()


def test_two_machines_have_no_way_into_a_cluster(tmp_path: Path) -> None:
    with pytest.raises(BundleTargetError, match=r"two-sparks: serve\.cluster .* kserve: 2 machines together serve"):
        contents_of(TWO, tmp_path, _cluster(replicas=2))
    for target in IN_CLUSTERS:
        with pytest.raises(BundleTargetError, match=rf"on {target}: 2 machines .*LimitMEMLOCK") as refused:
            choose(contents_of(TWO, tmp_path), [target])
        assert refused.value.hint == "there are: two-sparks"


@pytest.mark.parametrize(
    ("environment", "seconds", "size"),
    [
        ((), "3600", "16777216"),
        (
            ("serve.environment={NIM_GATEWAY_REQUEST_SECONDS: '0', NIM_GATEWAY_MAX_BODY_BYTES: '9'}",),
            "86400",
            "9",
        ),
    ],
)
def test_an_ingress_waits_and_takes_bodies_as_the_gateway_does(
    tmp_path: Path, environment: tuple[str, ...], seconds: str, size: str
) -> None:
    contents = contents_of(ONE, tmp_path, _cluster(route=NGINX), *environment)
    ingress = _yaml(render_files(contents)["kubernetes/route.yaml"])
    assert [core_problems(ingress, version) for version in VERSIONS] == [[], []]
    notes = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert notes == {
        "proxy-read-timeout": seconds,
        "proxy-send-timeout": seconds,
        "proxy-body-size": size,
        "proxy-buffering": "off",
    }


def test_a_route_through_a_gateway_has_no_time_limit_and_a_name_of_its_own(tmp_path: Path) -> None:
    files = render_files(contents_of(ONE, tmp_path, _cluster(route=ROUTES["gateway"])))
    for target in IN_CLUSTERS - {"helm"}:
        route = _yaml(files[f"{target}/route.yaml"])
        assert route["metadata"]["name"] == f"{ONE}-route"  # KServe and the operator own the name of the server
        assert route["spec"]["rules"][0]["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert _yaml(files["kserve/route.yaml"])["spec"]["rules"][0]["backendRefs"] == [
        {"name": f"{ONE}-predictor", "port": 80}
    ]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ((_cluster(route=ROUTES["ingress"] | {"annotations": None}),), "how two lets streamed answers take their time"),
        ((_cluster(route=ROUTES["gateway"]), "serve.environment={NIM_SSL_MODE: tls}"), "route ends TLS and speaks"),
        ((_cluster(replicas=0),), "replicas"),
        ((_cluster(route=ROUTES["gateway"] | {"host": "a b"}),), "host"),
    ],
)
def test_a_route_that_cannot_work_is_refused_with_the_recipe(
    tmp_path: Path, overrides: tuple[str, ...], told: str
) -> None:
    with pytest.raises(RecipeInvalidError, match=told):
        contents_of(ONE, tmp_path, *overrides)


@pytest.mark.parametrize("name", ["NIM_SSL_MODE", "NIM_SSL_CERT_PATH", "NIM_GATEWAY_API_KEYS_FILE"])
def test_the_operator_refuses_variables_that_name_files(tmp_path: Path, name: str) -> None:
    contents = contents_of(ONE, tmp_path, f"serve.environment.{name}=tls")
    assert "nim-operator" not in contents.targets
    assert name in left_out(contents)["nim-operator"]
    with pytest.raises(BundleTargetError, match=f"{name}, and the operator mounts no files"):
        choose(contents, ["nim-operator"])


def test_the_operator_takes_a_recipe_that_says_it_has_no_tls(tmp_path: Path) -> None:
    assert "nim-operator" in contents_of(ONE, tmp_path, "serve.environment.NIM_SSL_MODE=disabled").targets


def test_every_image_besides_the_servers_has_a_version_and_a_digest(tmp_path: Path) -> None:
    services = _yaml(render_files(contents_of(ONE, tmp_path))["compose.yaml"])["services"]
    images = {name: service["image"] for name, service in services.items() if name != "server"}
    assert set(images) == {"prometheus", "grafana", "chat"}
    for image in images.values():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z./-]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}\}", image), image
