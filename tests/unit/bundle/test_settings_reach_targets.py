"""Every setting reaches every target: variables of the recipe and of `.env`, keys, certificates, limits."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.bundle.targets import TARGETS, render_files
from tests.support.bundles import contents_of

ONE, TWO = "llama3-70b-nvfp4", "qwen3-235b-a22b-nvfp4-published"
ODD = 'a "quoted" word, $HOME, 100 %, back\\slash'
SETTINGS = (
    "NIM_GATEWAY_API_KEYS_FILE",
    "NIM_SSL_MODE",
    "NIM_SSL_KEY_PATH",
    "NIM_SSL_CERTS_PATH",
    "NIM_SSL_CA_CERTS_PATH",
    "NIM_CORS_ALLOW_ORIGINS",
    "NIM_GATEWAY_MAX_CONCURRENT_REQUESTS",
    "NIM_GATEWAY_REQUESTS_PER_MINUTE",
    "NIM_MAX_MODEL_LEN",
    "NIM_LOG_LEVEL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
WITHOUT_FILES = {"nim-operator"}
"""The operator mounts nothing besides the model."""


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


def _of_operator(text: str) -> Reached:
    entries = _yaml(text)["spec"]["env"]
    fixed = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
    references = [(entry["name"], entry["valueFrom"]["configMapKeyRef"]) for entry in entries if "value" not in entry]
    for name, reference in references:
        assert reference == {"name": f"{ONE}-settings", "key": name, "optional": True}
    return Reached(fixed, frozenset(name for name, _ in references), "")


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
    }


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reached]:
    return _reached(tmp_path_factory.mktemp("bundle"), f"serve.environment.MY_VARIABLE={json.dumps(ODD)}")


@pytest.mark.parametrize("target", TARGETS)
def test_a_variable_of_the_recipe_reaches_the_server_as_it_was_written(
    reached: dict[str, Reached], target: str
) -> None:
    assert reached[target].fixed["MY_VARIABLE"] == ODD


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_setting_can_be_made_without_editing_a_file(reached: dict[str, Reached], target: str, setting: str) -> None:
    settings = reached[target].settings
    assert setting not in reached[target].fixed
    assert settings is None or setting in settings


@pytest.mark.parametrize("target", TARGETS)
def test_keys_and_certificates_have_the_same_path_everywhere(reached: dict[str, Reached], target: str) -> None:
    assert reached[target].secrets == ("" if target in WITHOUT_FILES else "/run/secrets")


@pytest.mark.parametrize("target", TARGETS)
def test_a_setting_that_the_recipe_makes_is_made_once(tmp_path: Path, target: str) -> None:
    found = _reached(tmp_path, "serve.environment.NIM_LOG_LEVEL=DEBUG")[target]
    assert found.fixed["NIM_LOG_LEVEL"] == "DEBUG"
    assert found.settings is None or "NIM_LOG_LEVEL" not in found.settings


def test_comments_have_spaces_between_their_words(tmp_path: Path) -> None:
    for embed in (True, False):
        contents = replace(contents_of(ONE, tmp_path / str(embed)), embed_model=embed)
        for name, text in render_files(contents).items():
            comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
            glued = [line for line in comments if re.search(r"thenrun|[a-z]\.[A-Z][a-z]", line)]
            assert not glued, (name, glued)
