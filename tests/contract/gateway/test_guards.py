"""API keys, TLS, CORS and limits, switched on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.keys import create_key
from tests.support.gateway import Deployment, chat, deployed
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    """A server with a key of alice's, few requests a minute for others, and pages of one origin."""
    folder = tmp_path_factory.mktemp("guarded")
    key, _ = create_key("alice", folder / "keys")
    variables = {
        "NIM_GATEWAY_API_KEYS_FILE": str(folder / "keys"),
        "NIM_CORS_ALLOW_ORIGINS": "https://ui.example, https://other.example",
        "NIM_GATEWAY_REQUESTS_PER_MINUTE": "30",
    }
    with deployed(folder / "bundle", variables=variables) as server:
        yield server, key


def test_probes_and_metrics_need_no_key_and_the_rest_does(guarded: tuple[Deployment, str]) -> None:
    server, key = guarded
    for path in ("/v1/health/live", "/v1/health/ready", "/v1/metrics"):
        assert server.get(path)[0] == 200
    for path in ("/v1/models", "/v1/metadata", "/v1/license", "/v1/version", "/v1/manifest"):
        status, headers, body = server.request("GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
        assert server.get(path, Authorization=f"Bearer {key}")[0] == 200
    assert server.ask("hello")[0] == 401
    assert server.ask("hello", headers={"Authorization": f"bearer {key}"})[0] == 200


@pytest.mark.parametrize(
    "value", ["Bearer ", "Bearer wrong", "Basic YTpi", "{key}", "Bearer {key}x", "Bearer x{key}", "Bearer {key} {key}"]
)
def test_a_wrong_key_opens_nothing_and_is_not_repeated(guarded: tuple[Deployment, str], value: str) -> None:
    server, key = guarded
    status, document = server.get("/v1/models", Authorization=value.replace("{key}", key))
    assert status == 401
    assert key not in json.dumps(document)
    assert key not in server.log


def test_two_keys_at_once_are_none(guarded: tuple[Deployment, str]) -> None:
    server, key = guarded
    line = f"Authorization: Bearer {key}\r\n"
    answer = server.raw(f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{line}{line}Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401")


def test_the_log_says_whose_key_it_was(guarded: tuple[Deployment, str]) -> None:
    server, key = guarded
    server.get("/v1/models", Authorization=f"Bearer {key}", X_Request_Id="whose")
    server.wait_for(lambda: "request_id=whose client=127.0.0.1 key=alice" in server.log)


def test_keys_come_and_go_without_a_restart(guarded: tuple[Deployment, str]) -> None:
    server, key = guarded
    file = server.folder.parent / "keys"
    before = file.read_text()
    other, _ = create_key("bob", file)
    server.wait_for(lambda: server.get("/v1/models", Authorization=f"Bearer {other}")[0] == 200, 10)
    file.write_text("# broken line\nalice plain\n")
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGHUP)
    server.wait_for(lambda: "cannot read the API keys; the old ones stay" in server.log, 10)
    assert server.get("/v1/models", Authorization=f"Bearer {other}")[0] == 200
    file.write_text(before)
    server.wait_for(lambda: server.get("/v1/models", Authorization=f"Bearer {other}")[0] == 401, 10)
    assert server.get("/v1/models", Authorization=f"Bearer {key}")[0] == 200


def test_pages_of_named_origins_may_ask(guarded: tuple[Deployment, str]) -> None:
    server, _ = guarded
    asking = {"Access_Control_Request_Method": "POST"}
    status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", Origin="https://ui.example", **asking)
    assert status == 204
    assert headers["access-control-allow-origin"] == "https://ui.example"
    assert headers["access-control-allow-methods"] == "GET, POST"
    assert headers["access-control-allow-headers"] == "Authorization, Content-Type"
    assert headers["vary"] == "Origin"
    for origin in ("https://evil.example", "null", "https://ui.example.evil"):
        _, headers, _ = server.request("OPTIONS", "/v1/chat/completions", Origin=origin, **asking)
        assert "access-control-allow-origin" not in headers
        assert "access-control-allow-methods" not in headers
    _, headers, _ = server.request("GET", "/v1/models", Origin="https://other.example")
    assert headers["access-control-allow-origin"] == "https://other.example"


def test_a_client_that_asks_too_often_is_told_when_to_come_back(guarded: tuple[Deployment, str]) -> None:
    server, _ = guarded
    eager, _ = create_key("eager", server.folder.parent / "keys")
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGHUP)
    asked = {"Authorization": f"Bearer {eager}"}
    server.wait_for(lambda: server.get("/v1/models", **asked)[0] == 200, 10)
    statuses = []
    for _ in range(40):
        status, headers, body = server.request("POST", "/v1/chat/completions", chat("hello"), **asked)
        statuses.append(status)
        if status == 429:
            assert 1 <= int(headers["retry-after"]) <= 2
            assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
    assert statuses[:30] == [200] * 30
    assert 429 in statuses


def test_too_many_at_once_are_told_to_try_again(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_MAX_CONCURRENT_REQUESTS": "1"}) as server:
        thread = threading.Thread(target=lambda: server.ask("[slow 3] hello"))
        thread.start()
        server.wait_for(lambda: 'model_requests_running{model_name="tiny"} 1' in server.get("/v1/metrics")[1]["text"])
        status, headers, _ = server.request("POST", "/v1/chat/completions", chat("hello"))
        assert (status, headers["retry-after"]) == (429, "1")
        thread.join(30)
        assert server.ask("hello")[0] == 200


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_REQUEST_SECONDS": "1"}) as server:
        status, document = server.ask("[slow 30] hello")
        assert (status, document["error"]["code"]) == (504, "timeout")


class Authority:
    """A certificate authority of this test, made by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                      "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip

    def issue(self, name: str) -> tuple[str, str]:
        """Issue a certificate for 127.0.0.1; gives its file and its key's."""
        (self.folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


def _models(server: Deployment, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=context)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status
    finally:
        connection.close()


def test_mutual_tls_asks_for_a_certificate_and_probes_have_a_port_without(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key = authority.issue("server")
    health = free_port()
    variables = {
        "NIM_SSL_MODE": "mtls",
        "NIM_SSL_CERTS_PATH": certificate,
        "NIM_SSL_KEY_PATH": key,
        "NIM_SSL_CA_CERTS_PATH": str(authority.folder / "ca.pem"),
        "NIM_HEALTH_PORT": str(health),
    }
    with deployed(tmp_path / "bundle", ready=False, variables=variables) as server:
        probe = Deployment(server.folder, port=health)
        server.wait_for(lambda: probe.get("/v1/health/ready")[0] == 200)
        assert server.act("healthcheck", NIM_SERVER_PORT=str(server.port)).returncode == 0
        context = ssl.create_default_context(cafile=str(authority.folder / "ca.pem"))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _models(server, context)
        context.load_cert_chain(*authority.issue("client"))
        assert _models(server, context) == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            server.get("/v1/models")


def test_certificates_are_renewed_without_a_restart(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    place = tmp_path / "server.pem"
    certificate, key = old.issue("server")
    place.write_text(Path(certificate).read_text() + Path(key).read_text())
    variables = {"NIM_SSL_MODE": "tls", "NIM_SSL_CERT_PATH": str(place), "NIM_SSL_KEY_PATH": str(place)}
    with deployed(tmp_path / "bundle", ready=False, variables=variables) as server:
        trusting_old = ssl.create_default_context(cafile=str(old.folder / "ca.pem"))
        trusting_new = ssl.create_default_context(cafile=str(new.folder / "ca.pem"))
        server.wait_for(lambda: _models(server, trusting_old) == 200)
        assert server.act("healthcheck", NIM_SERVER_PORT=str(server.port)).stdout == "ready\n"
        place.write_text("broken")
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGHUP)
        server.wait_for(lambda: "cannot read the certificates; the old ones stay" in server.log, 10)
        assert _models(server, trusting_old) == 200
        certificate, key = new.issue("server")
        place.write_text(Path(certificate).read_text() + Path(key).read_text())
        os.kill(server.process.pid, signal.SIGHUP)
        server.wait_for(lambda: "certificates read" in server.log, 10)
        assert _models(server, trusting_new) == 200
        with pytest.raises(ssl.SSLError):
            _models(server, trusting_old)


@pytest.mark.parametrize("variables", [
    {"NIM_GATEWAY_API_KEYS_FILE": "/nowhere/keys"},
    {"NIM_SSL_MODE": "tls", "NIM_SSL_CERTS_PATH": "/nowhere/a", "NIM_SSL_KEY_PATH": "/nowhere/b"},
])  # fmt: skip
def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path, variables: dict[str, str]) -> None:
    server = Deployment(tmp_path, variables=variables)
    server.lay_out()
    ended = server.act(NIM_SERVER_PORT=str(free_port()), NIM_GATEWAY_RUNTIME_PORT=str(free_port()))
    assert ended.returncode == 3
    assert "/nowhere/" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not server.heard
