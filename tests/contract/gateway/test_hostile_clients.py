"""A few clients cannot stop a server: large bodies, readers that never read, idle connections, false addresses."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from pathlib import Path

from tests.support.gateway import Deployment, chat, deployed

MIB = 1 << 20


def _slow_body(size: int) -> bytes:
    """Write a body that takes a second to read and much memory, for a model that is not there."""
    small = b"{},[]," * (2 * MIB // 6)
    return b'{"model": "nobody", "documents": [' + small + b'"' + b"x" * (size - len(small)) + b'"]}'


def test_health_is_answered_while_large_bodies_are_checked(tmp_path: Path) -> None:
    statuses: list[int] = []
    answered = 0
    with deployed(tmp_path) as server:
        body = _slow_body(15 * MIB)

        def send() -> None:
            statuses.append(server.request("POST", "/v1/chat/completions", body)[0])

        clients = [threading.Thread(target=send) for _ in range(8)]
        for client in clients:
            client.start()
        while len(statuses) < len(clients):
            assert server.get("/v1/health/live")[0] == 200
            answered += 1
        for client in clients:
            client.join(60)
        assert statuses == [404] * 8  # each was read and checked
        assert answered > 20  # a server that reads them itself answers between two of them at best
        assert _peak_memory(server) < 450 * MIB  # the bodies, three times; not what Python makes of them


def _peak_memory(server: Deployment) -> int:
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def test_more_bytes_than_are_held_at_once_are_refused_for_now(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_MAX_HELD_BYTES": "1000000"}) as server:
        status, headers, body = server.request("POST", "/v1/completions", {"prompt": "x" * 1_100_000})
        assert (status, json.loads(body)["error"]["code"], headers["retry-after"]) == (429, "too_many_bytes", "1")
        assert server.ask("hello")[0] == 200


def test_a_client_that_reads_nothing_is_cut_off(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_WRITE_SECONDS": "1"}) as server:
        body = json.dumps(chat("[chunks 200000]", stream=True)).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            server.wait_for(lambda: any(entry.get("event") == "the client went away" for entry in server.heard))
            server.wait_for(lambda: "status=499" in server.log)
        running = 'model_requests_running{model_name="tiny"} 0'
        server.wait_for(lambda: running in server.get("/v1/metrics")[1]["text"])


def test_a_slow_reader_gets_its_whole_answer(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_WRITE_SECONDS": "5"}) as server:
        status, _, body = server.request("POST", "/v1/chat/completions", chat("[chunks 20000]", stream=True))
        assert (status, body.count(b"word ")) == (200, 20000)


def test_an_idle_connection_makes_way_for_a_new_one(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_MAX_CONNECTIONS": "2"}) as server:
        idle = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=30) for _ in range(2)]
        for connection in idle:
            connection.request("GET", "/v1/models")
            connection.getresponse().read()
        assert server.get("/v1/models")[0] == 200
        assert idle[0].sock.recv(1) == b""  # the one that was idle for longest
        idle[1].request("GET", "/v1/models")
        assert idle[1].getresponse().status == 200
        for connection in idle:
            connection.close()


def test_a_connection_with_a_request_makes_no_way(tmp_path: Path) -> None:
    with (
        deployed(tmp_path, variables={"NIM_GATEWAY_MAX_CONNECTIONS": "1"}) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as busy,
    ):
        body = json.dumps(chat("[slow 2] hello")).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        busy.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        server.wait_for(lambda: any(entry.get("method") == "POST" for entry in server.heard))
        assert server.raw(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert busy.recv(4096).startswith(b"HTTP/1.1 200")


def test_an_address_is_believed_from_a_trusted_proxy_only(tmp_path: Path) -> None:
    limits = {"NIM_GATEWAY_REQUESTS_PER_MINUTE": "1"}

    def statuses(server: Deployment) -> list[int]:
        return [server.ask("hello", headers={"X-Forwarded-For": f"198.51.100.{n}"})[0] for n in range(3)]

    with deployed(tmp_path / "trusted", variables={**limits, "NIM_GATEWAY_TRUSTED_PROXIES": "127.0.0.0/8"}) as server:
        assert statuses(server) == [200, 200, 200]
        server.wait_for(lambda: "client=198.51.100.2" in server.log)  # it is written when the answer has gone
    with deployed(tmp_path / "none", variables=limits) as server:
        assert statuses(server) == [200, 429, 429]


def test_what_is_not_for_clients_never_reaches_trtllm_serve(tmp_path: Path) -> None:
    with deployed(tmp_path) as server:
        for field in ("disaggregated_params", "lora_request"):
            status, _, body = server.request("POST", "/v1/chat/completions", chat("hello") | {field: {}})
            answer = json.loads(body)
            assert (status, answer["error"]["code"]) == (400, "unknown_field")
        assert server.ask("hello", chat_template="{{ 1 }}")[1]["error"]["code"] == "chat_template_off"
        assert not [entry for entry in server.heard if entry.get("method") == "POST"]
