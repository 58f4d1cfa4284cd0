"""A rolling update loses no request: one of two servers ends while clients go on asking."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections import Counter
from pathlib import Path

from tests.support.gateway import Deployment, chat, deployed

REQUESTS, CLIENTS = 500, 8
BODY = json.dumps(chat("hello")).encode()


class Balancer:
    """Sends requests to the servers that were ready when it last looked, as a Kubernetes Service does."""

    def __init__(self, *servers: Deployment) -> None:
        self.servers = servers
        self.ready = tuple(servers)
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.sent: Counter[int] = Counter()
        self.statuses: Counter[object] = Counter()

    def probe(self) -> None:
        """Look twenty times a second."""
        while not self.ended.wait(0.05):
            self.ready = tuple(server for server in self.servers if _is_ready(server))

    def client(self, count: int) -> None:
        """Ask, each time over the same connection as long as the server keeps it."""
        connection: http.client.HTTPConnection | None = None
        for number in range(count):
            if connection is None:
                server = self.ready[number % len(self.ready)]
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            status, closes = _ask(connection)
            with self.lock:
                self.sent[connection.port] += 1
                self.statuses[status] += 1
            if closes:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def _is_ready(server: Deployment) -> bool:
    try:
        return server.get("/v1/health/ready")[0] == 200
    except OSError:
        return False


def _ask(connection: http.client.HTTPConnection) -> tuple[object, bool]:
    try:
        connection.request("POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__, True
    return answer.status, answer.getheader("Connection") == "close"


def test_none_of_500_requests_is_lost_when_one_of_two_servers_ends(tmp_path: Path) -> None:
    # the delay is long, because this machine may be slow; what ends first ends the wait
    variables = {"NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS": "5"}
    with deployed(tmp_path / "old", variables=variables) as old, deployed(tmp_path / "new") as new:
        balancer = Balancer(old, new)
        threading.Thread(target=balancer.probe, daemon=True).start()
        clients = [threading.Thread(target=balancer.client, args=(n,)) for n in _shares(REQUESTS, CLIENTS)]
        for client in clients:
            client.start()
        old.wait_for(lambda: balancer.sent[old.port] >= 50)
        assert old.process is not None
        old.process.send_signal(signal.SIGTERM)
        before = balancer.sent[old.port]
        for client in clients:
            client.join(120)
        assert balancer.statuses == {200: REQUESTS}
        assert balancer.sent[old.port] > before, "nothing was asked after SIGTERM"
        assert balancer.sent[new.port] > 0
        assert old.wait_end() == 0
        balancer.ended.set()
        assert "requests cut off" not in old.log


def test_a_server_that_ends_serves_first_and_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS": "600"}) as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda: server.get("/v1/health/ready")[0] == 503)
        assert server.get("/v1/health/live")[0] == 200
        status, headers, _ = server.request("POST", "/v1/chat/completions", chat("hello"))
        assert (status, headers["connection"]) == (200, "close")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_end() == 0


def test_an_idle_connection_is_closed_when_requests_are_refused(tmp_path: Path) -> None:
    with deployed(tmp_path) as server:
        idle = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        assert _ask(idle) == (200, False)
        slow = threading.Thread(target=lambda: server.ask("[slow 3] hello"))
        slow.start()
        server.wait_for(lambda: 'model_requests_running{model_name="tiny"} 1' in server.get("/v1/metrics")[1]["text"])
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert idle.sock.recv(1) == b""  # closed while another request still runs
        idle.close()
        slow.join(30)
        assert server.wait_end() == 0


def test_a_person_who_interrupts_does_not_wait_for_load_balancers(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS": "600"}) as server:
        assert server.process is not None
        server.process.send_signal(signal.SIGINT)
        assert server.wait_end() == 0


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (number < total % parts) for number in range(parts)]
