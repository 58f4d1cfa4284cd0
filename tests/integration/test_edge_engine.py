"""Does the real package of TensorRT Edge-LLM find our engines, and know our options, fields and models?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bundle.gateway import edge_llm
from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from tests.support.docker_daemon import do_without
from tests.support.oracle import find_environment
from tests.support.standins.standin_edge_serve import CONTROLS, FIELDS

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(300)]

_HERE = Path(__file__).parent
_NOT_FOR_CLIENTS = {
    "apply_chat_template", "audio", "cache_generated_tokens", "disable_spec_decode", "min_p", "modalities",
    "repetition_penalty", "reuse_context",
}  # fmt: skip


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - any JSON value
    environment = find_environment()
    if not environment.has("tensorrt_edgellm"):
        do_without("TensorRT Edge-LLM's wheels are for x86-64 and Python 3.12 or older")
    output = environment.run(_HERE / "edge_engine_run.py", tmp_path_factory.mktemp("edge"))
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("where", ["step", "bundle"])
def test_the_server_finds_the_engine_that_was_built_before(answer: Any, where: str) -> None:  # noqa: ANN401 - as above
    assert answer[where] == {"built": False, "place": answer["place"]}


def test_a_client_may_send_every_field_but_those_that_are_not_for_it(answer: Any) -> None:  # noqa: ANN401 - as above
    (fields,) = edge_llm.FIELDS.values()
    assert set(answer["fields"]) - fields == _NOT_FOR_CLIENTS
    assert fields <= set(answer["fields"])
    assert set(answer["fields"]) == FIELDS  # of the stand-in


def test_the_stand_in_has_the_routes_of_the_server(answer: Any) -> None:  # noqa: ANN401 - as above
    own = {("GET", "/health"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")}
    framework = {("GET", "/docs"), ("GET", "/redoc"), ("GET", "/openapi.json")}
    assert {tuple(route) for route in answer["routes"]} | framework == CONTROLS | own
    assert set(edge_llm.FIELDS) == {path for _, path in own if path.endswith("completions")}


def test_every_model_that_the_image_builds_is_in_the_registry_of_the_builder(answer: Any) -> None:  # noqa: ANN401 - as above
    families = Catalog(Project(_HERE.parents[1])).image("edge-llm-0.11.0").engine_families
    assert set(families.values()) <= set(answer["model_types"])
    assert not {"gpt_oss", "deepseek_v2", "jamba", "mixtral"} & set(answer["model_types"])
