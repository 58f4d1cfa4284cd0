"""What `deploy` asks a gateway, against servers that answer in every way."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.deployment.gateway_client import Gateway
from orchestrator.errors import KeyMissingError, ServerNotReadyError

Answers = Mapping[str, tuple[int, str]]

MODELS = (200, json.dumps({"object": "list", "data": [{"id": "llama"}]}))
HEALTHY: Answers = {"/v1/health/live": (200, "{}"), "/v1/health/ready": (200, "{}")}


def streamed(*deltas: dict[str, Any], usage: int | None = None) -> tuple[int, str]:
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
    if usage:
        chunks.append({"choices": [], "usage": {"completion_tokens": usage}})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return 200, "".join([*lines, ": a comment\n\n", "data: [DONE]\n\n"])


@contextmanager
def serving(answers: Answers, tls: Path | None = None) -> Iterator[str]:
    """Answer as told; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers.get(self.path, (404, "{}"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 - the name is given

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_answer_is_put_together_and_counted() -> None:
    chat = streamed({"role": "assistant"}, {"content": "Par"}, {"content": "is."}, usage=7)
    with serving({"/v1/models": MODELS, "/v1/chat/completions": chat}) as url:
        answer = Gateway(url).ask()
    assert (answer.text, answer.tokens, answer.model) == ("Paris.", 7, "llama")
    assert 0 < answer.first <= answer.total


def test_a_server_that_does_not_count_has_its_pieces_counted_and_reasoning_is_an_answer() -> None:
    chat = streamed({"reasoning_content": "Well, "}, {"content": "Paris"})
    with serving({"/v1/models": MODELS, "/v1/chat/completions": chat}) as url:
        answer = Gateway(url).ask()
    assert (answer.text, answer.tokens) == ("Well, Paris", 2)


def test_a_model_that_cannot_chat_is_asked_to_go_on_with_a_text() -> None:
    completion = "data: " + json.dumps({"choices": [{"text": " Paris"}]}) + "\n\n"
    refused = (400, json.dumps({"error": {"message": "no chat template"}}))
    answers = {"/v1/models": MODELS, "/v1/chat/completions": refused, "/v1/completions": (200, completion)}
    with serving(answers) as url:
        assert Gateway(url).ask().text == "Paris"


@pytest.mark.parametrize("status", [401, 403])
def test_a_gateway_that_wants_a_key_is_said_to_be_up(status: int) -> None:
    refusal = (status, json.dumps({"error": {"message": "no key"}}))
    with serving({"/v1/models": refusal}) as url, pytest.raises(KeyMissingError, match=r"is up.*no key") as refused:
        Gateway(url).ask()
    assert "ORCHESTRATOR_API_KEY" in refused.value.hint


@pytest.mark.parametrize(
    ("chat", "told"),
    [
        ((500, json.dumps({"error": {"message": "out of memory"}})), "out of memory"),
        ((200, 'data: {"error": {"message": "stopped"}}\n\n'), "stopped"),
        ((200, "data: [DONE]\n\n"), "gave an empty answer"),
        ((200, "data: not JSON\n\n"), "gave no answer"),
        ((200, 'data: {"choices": 5}\n\n'), "gave no answer"),
        ((200, "data: [1]\n\n"), "gave no answer"),
        ((404, "gone"), "404: gone"),
    ],
)
def test_what_is_no_answer_is_an_error_in_its_own_words(chat: tuple[int, str], told: str) -> None:
    answers = {"/v1/models": MODELS, "/v1/chat/completions": chat}
    with serving(answers) as url, pytest.raises(ServerNotReadyError, match=told):
        Gateway(url).ask()


def test_health_is_told_in_every_state() -> None:
    loading = {**HEALTHY, "/v1/health/ready": (503, json.dumps({"error": {"message": "loading"}}))}
    with serving(HEALTHY) as url:
        assert Gateway(url).health().ready
    with serving(loading) as url:
        found = Gateway(url).health()
    assert (found.live, found.ready, found.message) == (True, False, "loading")
    assert not Gateway(url).health().live  # nobody is there any more


def test_a_certificate_is_trusted_for_what_it_is_and_no_other_is(tmp_path: Path) -> None:
    for name in ("ours", "another"):
        pem = tmp_path / f"{name}.pem"
        command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        made = ("-subj", "/CN=spark.example", "-days", "2", "-keyout", str(pem), "-out", str(tmp_path / f"{name}.crt"))
        subprocess.run((*command, *made), check=True, capture_output=True)
        pem.write_text(pem.read_text() + (tmp_path / f"{name}.crt").read_text())
    with serving(HEALTHY, tls=tmp_path / "ours.pem") as url:
        assert Gateway(url, certificate=tmp_path / "ours.crt").health().ready
        assert not Gateway(url, certificate=tmp_path / "another.crt").health().live
