"""Which request gets which answer: routes, methods, keys, states and origins, without a socket."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import HttpVersion, web
from aiohttp.test_utils import make_mocked_request

from orchestrator.bundle.gateway import trtllm
from orchestrator.bundle.gateway.documents import Documents, read_documents
from orchestrator.bundle.gateway.gateway import Gateway, Phase
from orchestrator.bundle.gateway.keys import KeyRing, digest_of
from orchestrator.bundle.gateway.launch import Launch
from orchestrator.bundle.gateway.logs import Log
from orchestrator.bundle.gateway.routes import HEALTH, ROUTES
from orchestrator.bundle.gateway.runtime import Runtime, State
from orchestrator.bundle.gateway.settings import read_settings
from orchestrator.bundle.gateway.silence import Silence
from orchestrator.bundle.gateway.traces import Traces
from orchestrator.bundle.gateway.variables import Environment
from tests.support.gateway import example_serve, write_documents

KEY = "nimg-the-key-of-alice"
LAUNCH = Launch(trtllm, (), Path(), None, max_model_len=4096, guided=False, max_batch_size=8)
OPEN = {"/v1/health/live", "/v1/health/ready", "/v1/metrics", "/health", "/metrics"}
FOR_MODEL = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}


@dataclass(frozen=True)
class MetricsSession:
    """An HTTP session in which trtllm-serve answers requests for its metrics."""

    status: int = 200

    @asynccontextmanager
    async def get(self, url: str, **_: object) -> AsyncIterator[MetricsSession]:
        assert url == "http://127.0.0.1:1/prometheus/metrics"
        yield self

    async def text(self) -> str:
        return "# TYPE trtllm_kv_cache_utilization gauge\ntrtllm_kv_cache_utilization 0.25\n"


class World:
    """A gateway, and what it is asked."""

    def __init__(self, folder: Path, **variables: str) -> None:
        write_documents(folder, example_serve())
        self.log = io.StringIO()
        self.documents: Documents = read_documents(folder)
        self.settings = read_settings(Environment(variables), example_serve())
        self.keys: KeyRing | None = None
        self.state = State.READY
        self.phase = Phase.SERVING
        self.session = MetricsSession()

    def require_key(self, folder: Path) -> None:
        file = folder / "keys"
        file.write_text(f"alice sha256:{digest_of(KEY).hex()}\n")
        self.keys = KeyRing(file, Log(stream=self.log))

    def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        health: bool = False,
        version: HttpVersion | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], Any]:
        """Ask once; a header's name has `_` for `-`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}

        async def answer() -> web.StreamResponse:
            log = Log("DEBUG", as_json=True, stream=self.log)
            runtime = Runtime(
                ("trtllm-serve",), {}, trtllm, "http://127.0.0.1:1", log, health_seconds=1, silence=Silence(0, None)
            )
            runtime.state, runtime.status = self.state, 3
            session = cast("aiohttp.ClientSession", self.session)
            gateway = Gateway(
                self.settings, self.documents, runtime, session,
                keys=self.keys, traces=Traces(), log=log, launch=LAUNCH,
            )  # fmt: skip
            gateway.phase = self.phase
            request = make_mocked_request(method, path, given, version=version or HttpVersion(1, 1))
            return await (gateway.answer_health if health else gateway.answer)(request)

        reply = asyncio.run(answer())
        assert isinstance(reply, web.Response)
        text = reply.text or ""
        document = json.loads(text) if text.startswith("{") else text
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, document

    def logged(self) -> dict[str, Any]:
        """The last line of the log."""
        found: dict[str, Any] = json.loads(self.log.getvalue().splitlines()[-1])
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "etc")


def test_the_table_of_routes_is_that_of_a_nim() -> None:
    assert {path: route.method for path, route in ROUTES.items()} == {
        "/v1/health/live": "GET",
        "/v1/health/ready": "GET",
        "/v1/models": "GET",
        "/v1/models/{model}": "GET",
        "/v1/metadata": "GET",
        "/v1/manifest": "GET",
        "/v1/license": "GET",
        "/v1/version": "GET",
        "/v1/metrics": "GET",
        "/health": "GET",
        "/metrics": "GET",
        "/openapi.json": "GET",
        "/docs": "GET",
        "/v1/chat/completions": "POST",
        "/v1/completions": "POST",
        "/v1/responses": "POST",
    }
    assert {path for path, route in ROUTES.items() if route.open} == OPEN
    assert {path for path, route in ROUTES.items() if route.for_model} == FOR_MODEL
    assert set(HEALTH) == {"/v1/health/live", "/v1/health/ready"}


def _asked(path: str) -> str:
    return path.replace("{model}", "tiny")


@pytest.mark.parametrize("path", sorted(set(ROUTES) - FOR_MODEL))
def test_a_route_of_the_gateway_answers(world: World, path: str) -> None:
    status, headers, _ = world.ask(f"{_asked(path)}?query=is+ignored")
    assert status == 200
    assert (headers["server"], headers["x-content-type-options"]) == ("nim-gateway", "nosniff")
    assert (world.logged()["route"], world.logged()["status"]) == (path, 200)


@pytest.mark.parametrize(
    ("path", "document"),
    [("metadata", "metadata"), ("license", "license"), ("version", "version"), ("manifest", "manifest")],
)
def test_each_document_is_answered_under_its_own_path(world: World, path: str, document: str) -> None:
    assert world.ask(f"/v1/{path}")[2] == json.loads(getattr(world.documents, document))


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_another_method_is_refused_with_the_one_that_is_allowed(world: World, path: str) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"} - set(ROUTES[path].accepted):
        status, headers, answer = world.ask(path, method, Origin="https://a.example")
        assert (status, headers["allow"]) == (405, ", ".join(ROUTES[path].accepted))
        assert answer["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/V1/models", "/v1/modelsx", "/metrics/", "/v2/models"])
def test_another_path_does_not_exist(world: World, path: str) -> None:
    status, _, answer = world.ask(path)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (404, "not_found", "not_found_error")
    assert world.logged()["route"] == "other"


@pytest.mark.parametrize("path", ["tiny", "tin%79", "meta%2Fllama", "meta/llama"])
def test_a_model_is_described_under_each_of_its_names(tmp_path: Path, path: str) -> None:
    world = World(tmp_path / "etc", NIM_SERVED_MODEL_NAME="tiny,meta/llama")
    status, _, answer = world.ask(f"/v1/models/{path}")
    assert (status, answer["id"]) == (200, "tiny" if path.startswith("tin") else "meta/llama")
    assert answer in world.ask("/v1/models")[2]["data"]


@pytest.mark.parametrize("path", ["other", "tiny/", "%2e%2e/metrics", "../metrics", "%FF", "{model}", "tiny/tiny"])
def test_a_name_that_no_model_has_is_not_found(world: World, path: str) -> None:
    status, _, answer = world.ask(f"/v1/models/{path}")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert world.logged()["route"] == "/v1/models/{model}"


def test_the_health_port_has_the_probes_alone(world: World) -> None:
    answers = {path: world.ask(path, ROUTES[path].method, health=True)[0] for path in ROUTES}
    assert {path for path, status in answers.items() if status == 200} == set(HEALTH)
    assert {status for path, status in answers.items() if path not in HEALTH} == {404}


@pytest.mark.parametrize(("version", "status"), [((0, 9), 505), ((1, 0), 200), ((1, 1), 200)])
def test_a_version_of_http_before_the_first_is_refused(world: World, version: tuple[int, int], status: int) -> None:
    assert world.ask("/v1/models", version=HttpVersion(*version))[0] == status


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_every_route_needs_a_key_but_probes_and_metrics(world: World, tmp_path: Path, path: str) -> None:
    world.require_key(tmp_path)
    method = ROUTES[path].method
    path = _asked(path)
    missing = world.ask(path, method)
    wrong = world.ask(path, method, Authorization="Bearer nimg-wrong")
    if path in OPEN:
        assert (missing[0], wrong[0]) == (200, 200)
        return
    assert (missing[0], missing[1]["www-authenticate"]) == (401, "Bearer")
    assert missing[2]["error"]["message"] == "An API key is needed: Authorization: Bearer KEY."
    assert (wrong[0], wrong[2]["error"]["message"]) == (401, "The API key is not valid.")
    # With the key, the route is reached: those for the model then ask for JSON.
    assert world.ask(path, method, Authorization=f"bearer  {KEY} ")[0] == (415 if path in FOR_MODEL else 200)
    assert world.logged()["key"] == "alice"


def test_a_key_in_another_scheme_is_none(world: World, tmp_path: Path) -> None:
    world.require_key(tmp_path)
    for given in (KEY, f"Basic {KEY}", f"Bearer{KEY}", ""):
        assert world.ask("/v1/models", Authorization=given)[0] == 401


@pytest.mark.parametrize(("variable", "status"), [("1", 401), ("0", 200)])
def test_metrics_need_a_key_if_that_is_set(tmp_path: Path, variable: str, status: int) -> None:
    world = World(tmp_path / "etc", NIM_GATEWAY_METRICS_NEED_KEY=variable)
    world.require_key(tmp_path)
    assert world.ask("/v1/metrics")[0] == status
    assert world.ask("/v1/health/live")[0] == 200


@pytest.mark.parametrize(
    ("state", "phase", "live", "ready", "code", "retry"),
    [
        (State.READY, Phase.SERVING, 200, 200, None, None),
        (State.STARTING, Phase.SERVING, 200, 503, "not_ready", "5"),
        (State.UNRESPONSIVE, Phase.SERVING, 200, 503, "not_ready", "5"),
        (State.ENDED, Phase.SERVING, 503, 503, "runtime_ended", None),
        (State.HUNG, Phase.SERVING, 503, 503, "runtime_hung", None),
        (State.READY, Phase.DRAINING, 200, 503, "stopping", "10"),
        (State.ENDED, Phase.DRAINING, 200, 503, "stopping", "10"),
    ],
)
def test_probes_and_the_model_follow_the_state_of_trtllm_serve(
    world: World, state: State, phase: Phase, *, live: int, ready: int, code: str | None, retry: str | None
) -> None:
    world.state, world.phase = state, phase
    assert world.ask("/v1/health/live")[0] == live
    for path, method in (("/v1/health/ready", "GET"), ("/v1/models", "GET"), ("/v1/completions", "POST")):
        status, headers, answer = world.ask(path, method)
        if code is None:
            assert status == (415 if method == "POST" else ready)
        else:
            assert (status, answer["error"]["code"], headers.get("retry-after")) == (ready, code, retry)


@pytest.mark.parametrize(
    ("state", "phase", "ready"),
    [
        (State.READY, Phase.SERVING, 1),
        (State.READY, Phase.LEAVING, 0),
        (State.READY, Phase.DRAINING, 0),
        (State.STARTING, Phase.SERVING, 0),
        (State.HUNG, Phase.SERVING, 0),
        (State.ENDED, Phase.SERVING, 0),
    ],
)
def test_metrics_have_the_state_and_those_of_trtllm_serve_only_if_it_answers(
    world: World, state: State, phase: Phase, ready: int
) -> None:
    world.state, world.phase = state, phase
    text = world.ask("/v1/metrics")[2]
    assert re.findall(r"^nim_gateway_runtime_ready\S* (\d)$", text, re.MULTILINE) == [str(ready)]
    assert ("trtllm_kv_cache_utilization" in text) == (state is State.READY)


def test_a_server_that_leaves_is_not_ready_but_serves_and_ends_connections(world: World) -> None:
    world.phase = Phase.LEAVING
    status, headers, answer = world.ask("/v1/health/ready")
    assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "stopping", "10")
    assert world.ask("/v1/health/live")[0] == 200
    assert world.ask("/v1/completions", "POST")[0] == 415  # a body is asked for, as ever
    status, headers, _ = world.ask("/v1/models")
    assert (status, headers["connection"]) == (200, "close")


def test_metrics_that_trtllm_serve_does_not_have_are_left_out(world: World) -> None:
    world.session = MetricsSession(404)
    status, _, text = world.ask("/v1/metrics")
    assert (status, "trtllm_kv_cache_utilization" in text) == (200, False)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 415, "unsupported_media_type"),
        ({"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content_Type": "application/json", "Content_Encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"Content_Type": "application/json", "Content_Length": str((16 << 20) + 1)}, 413, "body_too_large"),
    ],
)
def test_a_body_is_refused_by_its_head(world: World, headers: dict[str, Any], status: int, code: str) -> None:
    found, _, answer = world.ask("/v1/chat/completions", "POST", **headers)
    assert (found, answer["error"]["code"]) == (status, code)


def test_the_models_are_listed_under_every_name_with_the_first_as_their_root(tmp_path: Path) -> None:
    world = World(tmp_path / "etc", NIM_SERVED_MODEL_NAME="one,two")
    status, _, answer = world.ask("/v1/models")
    assert (status, answer["object"]) == (200, "list")
    assert [(each["id"], each["root"], each["max_model_len"]) for each in answer["data"]] == [
        ("one", "one", 4096),
        ("two", "one", 4096),
    ]
    assert {(each["object"], each["owned_by"], each["parent"]) for each in answer["data"]} == {
        ("model", "system", None)
    }


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [("*", "https://a.example", "*"), ("https://a.example", "https://a.example", "https://a.example"),
     ("https://a.example", "https://b.example", None)],
)  # fmt: skip
def test_an_origin_that_is_allowed_gets_a_preflight_and_its_headers(
    tmp_path: Path, origins: str, origin: str, allowed: str | None
) -> None:
    world = World(tmp_path / "etc", NIM_CORS_ALLOW_ORIGINS=origins)
    status, preflight, _ = world.ask("/v1/completions", "OPTIONS", Origin=origin)
    assert status == 204
    assert preflight.get("access-control-allow-origin") == allowed
    assert ("access-control-allow-methods" in preflight) == (allowed is not None)
    status, headers, _ = world.ask("/v1/models", Origin=origin)
    assert (status, headers["vary"], headers.get("access-control-allow-origin")) == (200, "Origin", allowed)
    assert world.ask("/v1/models", "OPTIONS")[0] == 405  # without an origin it is a method like others


def test_a_request_keeps_the_id_that_the_client_gave_if_it_is_sensible(world: World) -> None:
    assert world.ask("/v1/models", X_Request_Id="abc-1.2:3_4")[1]["x-request-id"] == "abc-1.2:3_4"
    assert world.logged()["request_id"] == "abc-1.2:3_4"
    for odd in ("a b", "x" * 129, ""):
        given = world.ask("/v1/models", X_Request_Id=odd)[1]["x-request-id"]
        assert given != odd
        assert len(given) == 32


def test_probes_are_logged_for_debugging_alone(world: World) -> None:
    world.ask("/v1/health/live")
    assert world.logged()["level"].upper() == "DEBUG"
    world.ask("/v1/models")
    assert world.logged()["level"].upper() == "INFO"
