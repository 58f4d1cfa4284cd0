"""What each route answers, and that answers of the model come through as they are."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time

import pytest

from orchestrator.bundle.gateway.routes import ROUTES
from tests.support.gateway import Deployment, chat


@pytest.fixture(params=["trtllm_server", "vllm_server", "edge_llm_server"], ids=["tensorrt_llm", "vllm", "edge_llm"])
def server(request: pytest.FixtureRequest) -> Deployment:
    """Every runtime in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Deployment)
    return found


def test_health_says_what_a_nim_says(server: Deployment) -> None:
    for word in ("live", "ready"):
        body = {"object": "health.response", "message": word, "status": word}
        assert server.get(f"/v1/health/{word}") == (200, body)


def test_the_model_has_the_name_of_clients(server: Deployment) -> None:
    status, document = server.get("/v1/models")
    assert (status, document["object"]) == (200, "list")
    (model,) = document["data"]
    assert (model["id"], model["object"], model["root"], model["max_model_len"]) == ("tiny", "model", "tiny", 4096)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/metadata", "modelInfo"),
        ("/v1/license", "content"),
        ("/v1/version", "api"),
        ("/v1/manifest", "manifest_file"),
    ],
)
def test_documents_of_the_bundle_are_told(server: Deployment, path: str, key: str) -> None:
    status, headers, body = server.request("GET", path)
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert key in json.loads(body)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_the_model_answers_under_the_name_that_it_was_asked_by(server: Deployment, path: str) -> None:
    status, answer = server.ask("hello", path=path)
    if path not in server.own_routes:
        assert (status, answer["error"]["code"]) == (404, "not_found")
        return
    assert (status, answer["model"]) == (200, "tiny")
    assert "Paris is what a stand-in answers." in json.dumps(answer)


def test_the_runtime_is_asked_by_its_own_name_and_learns_nothing_of_the_client(server: Deployment) -> None:
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    own = {"Authorization": "Bearer secret", "Cookie": "a=b", "X_Trtllm_Msgpack": "1", "Accept": "application/json"}
    server.ask("hello", headers={**own, "X_Request_Id": "my-request", "traceparent": trace})
    heard = {name.lower(): value for name, value in server.heard[-1]["headers"].items()}
    assert set(heard) == {"host", "content-type", "content-length", "accept", "x-request-id", "traceparent"}
    assert heard["x-request-id"] == "my-request"
    assert heard["traceparent"] == trace


def test_a_request_has_an_id_of_its_own_or_the_clients(server: Deployment) -> None:
    _, headers, _ = server.request("GET", "/v1/models", X_Request_Id="abc-1")
    assert headers["x-request-id"] == "abc-1"
    for odd in ("a b", "x" * 200, "é", '"'):
        _, headers, _ = server.request("GET", "/v1/models", X_Request_Id=odd)
        assert headers["x-request-id"] != odd
        assert len(headers["x-request-id"]) == 32
    assert headers["server"] == "nim-gateway"


def test_chunks_come_one_by_one(server: Deployment) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    body = json.dumps(chat("[slow 0.3] hello", stream=True))
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    arrived, first = time.monotonic(), answer.readline()
    assert json.loads(first.removeprefix(b"data: "))["model"] == "tiny"
    rest = answer.read()
    assert time.monotonic() - arrived > 1.0  # the others came later, and were not waited for
    assert rest.endswith(b"data: [DONE]\n\n")
    connection.close()


def test_a_client_that_goes_away_stops_the_answer(server: Deployment) -> None:
    before, counted = len(server.heard), _cancelled(server)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        body = json.dumps(chat("[slow 0.1] [chunks 600]", stream=True)).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    server.wait_for(lambda: any(entry.get("event") == "the client went away" for entry in server.heard[before:]), 30)
    server.wait_for(lambda: _cancelled(server) > counted, 10)


def _cancelled(server: Deployment) -> int:
    found = re.search(r'end="cancelled"} (\d+)', server.get("/v1/metrics")[1]["text"])
    assert found
    return int(found[1])


@pytest.mark.parametrize("status", [400, 404, 422, 500, 503])
def test_an_error_of_the_runtime_has_the_shape_of_others(server: Deployment, status: int) -> None:
    found, answer = server.ask(f"[error {status}]")
    assert found == status
    assert answer["error"]["message"] == "told to fail"
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_an_answer_that_breaks_off_is_not_taken_for_whole(server: Deployment) -> None:
    with pytest.raises(http.client.IncompleteRead) as raised:
        server.request("POST", "/v1/chat/completions", chat("[break] [chunks 10]", stream=True))
    events = raised.value.partial
    assert b"[DONE]" not in events
    last = events.strip().splitlines()[-1].removeprefix(b"data: ")
    assert json.loads(last)["error"]["code"] == "runtime_broke_off"


def test_no_answer_at_all_is_a_bad_gateway(server: Deployment) -> None:
    status, answer = server.ask("[break]")
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (502, "runtime_unreachable", "server_error")


@pytest.mark.parametrize("path", [
    "/", "/v1", "/v1/", "/health/", "/metrics/", "/prometheus/metrics", "/update_weights", "/release_memory",
    "/v1/models/", "/V1/models", "/v1/chat/completions/", "//v1/models", "/v1//models",
    "/v1/%6dodels", "/docs/", "/server_info",
    "/v1/responses/abc", "/v1/responses/resp_a/b", "/v1/responses/resp_..%2f",
])  # fmt: skip
def test_what_is_on_no_list_does_not_exist(server: Deployment, path: str) -> None:
    for method in ("GET", "POST", "DELETE", "PUT"):
        status, _, body = server.request(method, path, b"{}" if method == "POST" else None)
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")


def test_a_path_behind_a_models_name_leads_nowhere(server: Deployment) -> None:
    before = len(server.heard)
    for path in ("/v1/models/../models", "/v1/models/tiny/../../metrics", "/v1/models/%2e%2e/health"):
        status, _, body = server.request("GET", path)
        assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
    assert len(server.heard) == before


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_a_route_takes_its_method_and_names_it(server: Deployment, path: str) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"} - set(ROUTES[path].accepted):
        status, headers, _ = server.request(method, path)
        if path in server.own_routes:
            assert (status, headers["allow"]) == (405, ", ".join(ROUTES[path].accepted))
        else:
            assert status == 404


def test_a_query_is_not_part_of_the_route_and_goes_no_further(server: Deployment) -> None:
    assert server.get("/v1/models?x=1")[0] == 200
    assert server.ask("hello", path="/v1/chat/completions?route=/update_weights")[0] == 200
    assert server.heard[-1]["path"] == "/v1/chat/completions"


def test_a_connection_is_used_again_after_an_error(server: Deployment) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for body, expected in ((chat("a", model="b"), 404), (chat("a"), 200), ([], 400), (chat("a"), 200)):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (expected, True)
        assert connection.sock is not None
    connection.close()


def test_a_large_body_that_asks_first_is_told_to_go_on(server: Deployment) -> None:
    body = json.dumps(chat("x" * 5000)).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_what_the_schema_of_trtllm_serve_refuses_is_said_in_its_words(trtllm_server: Deployment) -> None:
    status, _, body = trtllm_server.request("POST", "/v1/chat/completions", {"model": "tiny"})
    error = json.loads(body)["error"]
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "'loc': ('body', 'messages'), 'msg': 'Field required'" in error["message"]


def test_an_error_that_quotes_a_long_conversation_keeps_its_words(trtllm_server: Deployment) -> None:
    status, _, body = trtllm_server.request(
        "POST", "/v1/chat/completions", {"model": "tiny", "documents": ["x" * 90_000]}
    )
    error = json.loads(body)["error"]
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert "Field required" in error["message"]
    assert len(error["message"]) < 3000


def test_whatever_is_asked_by_get_is_asked_by_head_too(server: Deployment) -> None:
    paths = [path.replace("{model}", "tiny") for path, route in ROUTES.items() if route.method == "GET"]
    for path in sorted(paths):
        status, headers, body = server.request("HEAD", path)
        assert (status, body) == (200, b"")
        if path != "/health":  # has no body
            assert headers["content-type"] == server.request("GET", path)[1]["content-type"]


def test_tools_find_health_metrics_and_the_description_where_they_look(server: Deployment) -> None:
    assert server.request("GET", "/health")[::2] == (200, b"")
    assert "nim_gateway_runtime_ready" in server.get("/metrics")[1]["text"]
    assert server.get("/openapi.json")[1]["openapi"] == "3.1.0"
    status, headers, page = server.request("GET", "/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (b"POST /v1/responses<" in page) == ("/v1/responses" in server.own_routes)
    assert b"POST /v1/chat/completions<" in page
    assert b"http" not in page.replace(b"doctype html", b"")  # nothing is loaded from elsewhere


def test_a_stored_answer_is_read_and_removed(trtllm_server: Deployment) -> None:
    name = trtllm_server.ask("hello", path="/v1/responses")[1]["id"]
    for path in (f"/v1/responses/{name}", f"/v1/responses/{name}?include=x"):
        status, answer = trtllm_server.get(path)
        assert (status, answer["id"], answer["model"]) == (200, name, "tiny")
    assert json.loads(trtllm_server.request("DELETE", f"/v1/responses/{name}")[2])["deleted"] is True
    status, answer = trtllm_server.get(f"/v1/responses/{name}")
    assert (status, answer["error"]["message"]) == (404, f"Response with id '{name}' not found.")
    status, headers, _ = trtllm_server.request("PUT", f"/v1/responses/{name}")
    assert (status, headers["allow"]) == (405, "GET, HEAD, DELETE")


def test_one_of_two_expectations_that_nobody_knows_fails(server: Deployment) -> None:
    head = "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nExpect: 200-ok\r\n\r\n"
    assert server.raw(head.encode()).startswith(b"HTTP/1.1 417 ")


def test_an_expectation_that_nobody_knows_fails(server: Deployment) -> None:
    status, _, body = server.request("POST", "/v1/chat/completions", chat("hello"), Expect="200-ok")
    assert (status, json.loads(body)["error"]["code"]) == (417, "expectation_failed")
