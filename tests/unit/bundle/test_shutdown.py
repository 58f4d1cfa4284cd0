"""Every target gives a server the time to end that the gateway takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from orchestrator.bundle.gateway.settings import RUNTIME_STOP_SECONDS, TRACES_SECONDS, grace_seconds
from orchestrator.bundle.targets import render_files
from orchestrator.errors import RecipeInvalidError
from tests.support.bundles import contents_of

DELAY, DRAIN = "NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS", "NIM_GATEWAY_DRAIN_SECONDS"


def _recipe_sets(delay: str, drain: str) -> tuple[str, ...]:
    return (f'serve.environment.{DELAY}="{delay}"', f'serve.environment.{DRAIN}="{drain}"')


def _rendered(tmp_path: Path, name: str, *overrides: str) -> dict[str, str]:
    return render_files(contents_of(name, tmp_path, *overrides))


def _yaml(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def _variables(entries: list[dict[str, Any]]) -> tuple[int, int]:
    found = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
    return int(found[DELAY]), int(found[DRAIN])


def _default(text: str) -> str:
    found = re.fullmatch(r"\$\{STOP_GRACE_PERIOD:-(.*)\}", text)
    assert found
    return found[1]


def _ending(files: dict[str, str]) -> dict[str, tuple[tuple[int, int], int]]:
    """For each target delay and drain, and the grace."""
    name = "llama3-70b-nvfp4"
    pod = _yaml(files["kubernetes/deployment.yaml"])["spec"]["template"]["spec"]
    predictor = _yaml(files["kserve/inference-service.yaml"])["spec"]["predictor"]
    (container,) = _yaml(files["kserve/runtime.yaml"])["spec"]["containers"]
    values = _yaml(files["helm/values.yaml"])
    helm = values["shutdown"]
    assert not {DELAY, DRAIN} & {entry["name"] for entry in values["env"]}
    unit = dict(re.findall(r'^Environment="(\w+)=(\d+)"$', files[f"systemd/{name}.container"], re.MULTILINE))
    stop = int(re.findall(r"--stop-timeout=(\d+)", files[f"systemd/{name}.container"])[0])
    assert int(re.findall(r"TimeoutStopSec=(\d+)", files[f"systemd/{name}.container"])[0]) >= stop
    operator, chart = _yaml(files["nim-operator/nimservice.yaml"]), _yaml(files["helm/nim-llm-values.yaml"])
    return {
        "kubernetes": (_variables(pod["containers"][0]["env"]), pod["terminationGracePeriodSeconds"]),
        "kserve": (_variables(container["env"]), predictor["terminationGracePeriodSeconds"]),
        "helm": ((helm["delaySeconds"], helm["drainSeconds"]), sum(helm.values())),
        "systemd": ((int(unit[DELAY]), int(unit[DRAIN])), stop),
        "nim-operator": (_variables(operator["spec"]["env"]), 30),
        "nim-llm": (_variables(chart["env"]), 30),
    }


@pytest.mark.parametrize(
    ("overrides", "delay", "drain"),
    [((), 5, 100), (_recipe_sets("7.5", "300"), 8, 300), (_recipe_sets("0", "0"), 0, 0)],
)
def test_the_grace_of_every_target_is_that_of_its_delay_and_drain(
    tmp_path: Path, overrides: tuple[str, ...], delay: int, drain: int
) -> None:
    for target, (seconds, grace) in _ending(_rendered(tmp_path, "llama3-70b-nvfp4", *overrides)).items():
        assert grace_seconds(*seconds) <= grace, target
        if target not in {"nim-operator", "nim-llm"}:  # those give a pod no other time than Kubernetes' own
            assert seconds == (delay, drain), target


@pytest.mark.parametrize(
    ("name", "file", "service"),
    [
        ("llama3-70b-nvfp4", "compose.yaml", "server"),
        ("qwen3-235b-a22b-nvfp4-published", "two-sparks/compose.yaml", "node"),
    ],
)
@pytest.mark.parametrize(
    ("overrides", "grace", "passed"),
    [((), "50s", "${NIM_GATEWAY_DRAIN_SECONDS:-}"), (_recipe_sets("10", "600"), "630s", "600")],
)
def test_compose_has_the_grace_too_and_says_how_to_change_it(
    tmp_path: Path, name: str, file: str, service: str, *, overrides: tuple[str, ...], grace: str, passed: str
) -> None:
    files = _rendered(tmp_path, name, *overrides)
    described = _yaml(files[file])["services"][service]
    assert _default(described["stop_grace_period"]) == grace
    assert described["environment"][DRAIN] == passed
    assert f"#STOP_GRACE_PERIOD={grace}" in files[f"{Path(file).parent}/.env.example".removeprefix("./")]


def test_the_formula_holds_all_that_follows_the_drain() -> None:
    assert grace_seconds(5, 25) >= 5 + 25 + RUNTIME_STOP_SECONDS + TRACES_SECONDS


def test_a_recipe_with_another_value_than_seconds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalidError, match=r"serve\.environment: NIM_GATEWAY_DRAIN_SECONDS=soon"):
        _rendered(tmp_path, "llama3-70b-nvfp4", *_recipe_sets("5", "soon"))
