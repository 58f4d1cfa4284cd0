"""What strangers send: no path reaches another route, no framing another request, no log a secret."""

from __future__ import annotations

import json
import random
import re
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.routes import ROUTES
from tests.support.gateway import Deployment, chat, deployed

_REQUESTS = 10_000
_CONTROLS = (
    "/update_weights", "/release_memory", "/resume_memory", "/kv_cache_events", "/server_info", "/perf_metrics",
    "/steady_clock_offset", "/metrics", "/prometheus/metrics", "/health", "/health_generate", "/version",
)  # fmt: skip
_PIECES = (
    b"/", b"//", b"/./", b"/../", b"..", b"%2e%2e", b"%2E%2e/", b"%2f", b"%5c", b"\\", b";", b"?", b"#", b"%00",
    b"%0d%0a", b"%", b"%zz", b"%u002f", b"*", b"@", b"http://127.0.0.1:8001", b"http://x", b"\xff", b"\xc0\xaf",
    b"\t", b"\x0b", b"\x01", b"v1", b"V1", b"chat", b"completions", b"models", b"health", b"update_weights",
    b"metrics", b"x" * 300, b"&", b"=",
)  # fmt: skip
_PROBES = {("GET", "/health"), ("GET", "/v1/models"), ("GET", "/prometheus/metrics")}
"""What the gateway itself asks of trtllm-serve."""


def _targets(random_: random.Random) -> Iterator[bytes]:
    """Make targets of requests: routes that were bent, and pieces put together."""
    routes = [route.encode() for route in (*_CONTROLS, *ROUTES)]
    while True:
        target = bytearray(random_.choice(routes) if random_.random() < 0.7 else b"")
        for _ in range(random_.randint(1, 4)):
            place = random_.randint(0, len(target))
            end = place if random_.random() < 0.7 else random_.randint(place, len(target))
            target[place:end] = random_.choice(_PIECES)
        if random_.random() < 0.2:  # encode some letters
            target = bytearray(b"".join(b"%%%02x" % c if random_.random() < 0.3 else bytes([c]) for c in target))
        yield bytes(target)


def test_ten_thousand_paths_reach_no_route_outside_the_list(tmp_path: Path) -> None:
    # few seconds: connections are kept, several requests are sent at once
    random_ = random.Random(6)  # noqa: S311 - to be repeated
    allowed = {("POST", route.path) for route in ROUTES.values() if route.for_model} | _PROBES
    with deployed(tmp_path, variables={"NIM_LOG_LEVEL": "ERROR"}) as server:
        targets, sent = _targets(random_), 0
        while sent < _REQUESTS:
            batch = [next(targets) for _ in range(25)]
            sent += len(batch)
            _send(server, batch, random_)
        assert server.get("/v1/health/ready")[0] == 200
        heard = {(entry["method"], entry["path"]) for entry in server.heard if "method" in entry}
    assert heard <= allowed
    assert ("GET", "/health") in heard  # the stand-in does write down what it hears


def _send(server: Deployment, targets: list[bytes], random_: random.Random) -> None:
    """Send requests on one connection until it is closed, then go on with the next ones on another."""
    rest = list(targets)
    while rest:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            while rest:
                target = rest.pop()
                method = random_.choice((b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE"))
                connection.sendall(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                answer = connection.recv(1 << 16)
                status = int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0
                path = target.split(b"?")[0]
                if path.decode("latin-1") not in ROUTES:
                    assert status in {400, 404, 405}, (method, target, answer)
                if not answer.startswith(b"HTTP/1.1") or b"close" in answer.lower():
                    break


def _post(framing: bytes, body: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + framing
        + b"\r\n"
        + body
    )


_BODY = json.dumps(chat("hello")).encode()
_SIZE = b"%d" % len(_BODY)
_HIDDEN = b"POST /update_weights HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
_CHUNKED = b"%x\r\n" % len(_BODY) + _BODY + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_post(b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", _CHUNKED + _HIDDEN), id="CL.TE"),
        pytest.param(_post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", _CHUNKED), id="TE.CL"),
        pytest.param(_post(b"Content-Length: 0\r\nContent-Length: " + _SIZE + b"\r\n", _BODY), id="two lengths"),
        pytest.param(_post(b"Content-Length: " + _SIZE + b", " + _SIZE + b"\r\n", _BODY), id="a list of lengths"),
        pytest.param(_post(b"Content-Length: +" + _SIZE + b"\r\n", _BODY), id="a signed length"),
        pytest.param(_post(b"Content-Length: 0x5\r\n", _BODY), id="a hexadecimal length"),
        pytest.param(_post(b"Content-Length : " + _SIZE + b"\r\n", _BODY), id="a space before the colon"),
        pytest.param(_post(b"Transfer-Encoding: xchunked\r\n", _CHUNKED), id="another encoding"),
        pytest.param(_post(b"Transfer-Encoding: chunked, identity\r\n", _CHUNKED), id="chunked not last"),
        pytest.param(_post(b"Transfer-Encoding:\x0bchunked\r\n", _CHUNKED), id="a tab that is none"),
        pytest.param(_post(b"Content-Length: 5\r\n folded: yes\r\n", _BODY), id="a folded header"),
        pytest.param(_post(b"X: a\rTransfer-Encoding: chunked\r\n", _CHUNKED), id="a bare return"),
        pytest.param(_post(b"X-\x00: a\r\nContent-Length: 0\r\n", b""), id="a null in a name"),
        pytest.param(_post(b"Transfer-Encoding: chunked\r\n", b"-1\r\n" + _BODY), id="a negative chunk"),
        pytest.param(_post(b"Transfer-Encoding: chunked\r\n", b"f" * 17 + b"\r\n" + _BODY), id="a huge chunk"),
        pytest.param(b"GET /v1/models HTTP/3.7\r\nHost: x\r\n\r\n", id="no version"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS to a plain port"),
    ],
)  # fmt: skip
def test_framing_that_may_be_read_in_two_ways_is_refused(server: Deployment, data: bytes) -> None:
    before = len(server.heard)
    answer = server.raw(data, seconds=3)
    assert re.match(rb"HTTP/1\.[01] 400 Bad Request\r\n", answer), answer
    assert answer.count(b"HTTP/1.") == 1, "what follows is not read as another request"
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"
    asked = [entry["path"] for entry in server.heard[before:] if entry.get("method") == "POST"]
    assert asked == []


def test_a_request_behind_another_is_one_of_its_own(server: Deployment) -> None:
    answer = server.raw(
        _post(b"Content-Length: " + _SIZE + b"\r\n", _BODY)
        + _HIDDEN
        + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [200, 404, 404]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X: " + b"a" * 20_000, 400),
        (b"".join(b"X-%d: a\r\n" % number for number in range(2000)), 400),
        (b"Content-Length: 99999999999", 413),
        (b"Content-Length: 100001", 413),
        (b"Content-Length: 2\r\nContent-Encoding: gzip", 415),
        (b"Content-Length: 2\r\nContent-Type: text/plain", 415),
    ],
)
def test_what_is_too_large_or_of_another_kind_is_refused_from_its_head(
    server: Deployment, head: bytes, status: int
) -> None:
    kind = b"" if b"Content-Type" in head else b"Content-Type: application/json\r\n"
    data = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + kind + head.rstrip() + b"\r\n\r\n{}"
    )
    answer = server.raw(data, seconds=10)
    assert int(answer[9:12]) == status
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])


def test_a_request_without_a_version_is_refused(server: Deployment) -> None:
    assert b" 505 " in server.raw(b"GET /v1/models\r\n\r\n").partition(b"\r\n")[0]


def test_a_long_target_is_refused(server: Deployment) -> None:
    found = [server.raw(b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * size))[9:12] for size in (8189, 8190)]
    assert found == [b"404", b"400"], "8190 bytes with the slash"


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(server: Deployment) -> None:
    before = len(server.heard)
    data = b"".join(b"%x\r\n%s\r\n" % (50_000, b"a" * 50_000) for _ in range(4))
    answer = server.raw(_post(b"Transfer-Encoding: chunked\r\n", data), seconds=10)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert not [entry for entry in server.heard[before:] if entry.get("method") == "POST"]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nSet-Cookie: b", "a\x00b"])
def test_no_header_is_put_into_answers_by_requests(server: Deployment, value: str) -> None:
    line = f"X-Request-Id: {value}\r\nOrigin: {value}\r\n"
    answer = server.raw(f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{line}Connection: close\r\n\r\n".encode())
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"Evil" not in head
    assert b"Cookie" not in head


def test_slow_senders_are_hung_up_on_and_others_are_not(tmp_path: Path) -> None:
    limits = {"NIM_GATEWAY_HEADER_SECONDS": "1", "NIM_GATEWAY_BODY_SECONDS": "1", "NIM_GATEWAY_MAX_CONNECTIONS": "60"}
    with deployed(tmp_path, variables=limits) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(50)]
        begin = time.monotonic()
        for connection in slow:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nX: ")
        assert server.get("/v1/models")[0] == 200
        for connection in slow:
            assert connection.recv(1) == b""
            connection.close()
        assert time.monotonic() - begin < 15
        answer = server.raw(_post(b"Content-Length: 500\r\n", b"{"), seconds=15)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert server.ask("hello")[0] == 200


def test_more_connections_than_are_allowed_are_closed(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_MAX_CONNECTIONS": "4"}) as server:
        # Eight, of which four may stay: the connection of an earlier request may still take a place.
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(8)]
        server.wait_for(lambda: len(select.select(held, [], [], 0)[0]) >= 4)
        closed = select.select(held, [], [], 0)[0]
        assert [connection.recv(1) for connection in closed] == [b""] * len(closed)
        assert len(closed) < len(held)
        for connection in held:
            connection.close()
        server.wait_for(lambda: server.get("/v1/models")[0] == 200)


def test_a_shell_in_the_log_is_words_of_a_line(server: Deployment) -> None:
    server.raw(b"GET /v1/%0a2026-11-23T00:00:00\x01forged HTTP/1.1\r\nX-Request-Id: forged x\r\n\r\n", seconds=2)
    server.get("/v1/models%0aforged")
    assert "forged" not in server.log


def test_nothing_that_clients_say_is_in_the_log_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    for name, variables in (("quiet", {}), ("loud", {"NIM_GATEWAY_LOG_PROMPTS": "1"})):
        with deployed(tmp_path / name / "x", variables={"NIM_JSONL_LOGGING": "1", **variables}) as server:
            server.ask(
                "canary-prompt [echo]", headers={"Authorization": "Bearer canary-key", "Cookie": "canary-cookie"}
            )
            server.ask("canary-prompt", path="/v1/chat/completions?canary-query=1", stream=True)
            server.raw(
                b"GET /x HTTP/1.1\r\nAuthorization: Bearer canary-key\r\nbroken header canary\r\n\r\n", seconds=3
            )
            server.get("/canary-path")
        lines = [json.loads(line) for line in server.log.splitlines()]
        assert all("time" in line and "message" in line for line in lines)
        said = {word for word in ("prompt", "key", "cookie", "query", "path") if f"canary-{word}" in server.log}
        assert said == ({"prompt"} if variables else set())
