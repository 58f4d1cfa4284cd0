"""The server part of `verify`, against real processes that behave like `trtllm-serve`, well or badly."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bundle.gateway import harmony
from orchestrator.errors import CheckFailedError
from orchestrator.payloads import generate, verify
from orchestrator.payloads._server import Server
from orchestrator.quantization.files import read_json, write_json

_STAND_IN = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

port, how, notes = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
(notes / "pid").write_text(str(os.getpid()))
print("loading weights", flush=True)
if how == "dies":
    print("CUDA out of memory", flush=True)
    sys.exit(3)
if how == "family":
    import subprocess
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (notes / "worker").write_text(str(worker.pid))

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def say(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/health":
            self.say(b"", 503 if how == "never" else 200)
        elif self.path == "/v1/models":
            self.say(json.dumps({"data": [{"id": "the model"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (notes / "request").write_text(json.dumps({"path": self.path, **body}))
        if how == "garbage":
            self.say(b"<html>")
        elif how == "refuses":
            self.say(b'{"error": "no such model"}', 404)
        elif how == "mute":
            self.say(b'{"choices": [{"message": {"content": ""}}]}')
        elif how == "odd":
            self.say(b'{"choices": "none"}')
        elif how == "crashes":
            os._exit(9)
        elif "messages" in body:
            self.say(json.dumps({"choices": [{"message": {"content": "Paris"}}]}).encode())
        else:
            self.say(json.dumps({"choices": [{"text": " Paris"}]}).encode())

HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    generate.main(["--output", str(folder), "--hidden-size", "64", "--layers", "1", "--vocab-size", "261"])
    return folder


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def arguments(checkpoint: Path, port: int, tmp_path: Path) -> Callable[..., list[str]]:
    """The options of verify, and the stand-in as the server."""
    script = tmp_path / "stand_in.py"
    script.write_text(_STAND_IN)

    def build(how: str, *options: str, folder: Path = checkpoint) -> list[str]:
        ours = ["--checkpoint", str(folder), "--output", str(tmp_path), "--port", str(port), "--startup-timeout", "20"]
        return [*ours, *options, "--", sys.executable, str(script), str(port), how, str(tmp_path)]

    return build


def _quality(folder: Path) -> dict[str, Any]:
    return read_json(folder / verify.QUALITY)


def _check(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = next(check for check in _quality(folder)["checks"] if check["name"] == "served")
    return found


def _is_gone(pid: int) -> bool:
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_good_server_is_asked_once_and_stopped(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    verify.main(arguments("good"))
    served = _quality(tmp_path)["served"]
    assert (served["endpoint"], served["answer"]) == ("/v1/chat/completions", "Paris")
    assert served["seconds_to_ready"] > 0
    assert served["seconds_to_answer"] > 0
    assert _check(tmp_path)["passed"]
    assert _is_gone(int((tmp_path / "pid").read_text()))
    assert "loading weights" in (tmp_path / verify.SERVER_LOG).read_text()


def test_the_question_names_the_model_that_the_server_names(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    verify.main(arguments("good"))
    request = json.loads((tmp_path / "request").read_text())
    assert request["model"] == "the model"
    assert request["messages"][0]["role"] == "user"


def test_a_base_model_is_asked_to_complete_a_text(
    arguments: Callable[..., list[str]], tmp_path: Path, checkpoint: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in checkpoint.iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    config = read_json(base / "tokenizer_config.json")
    del config["chat_template"]
    write_json(base / "tokenizer_config.json", config)
    verify.main(arguments("good", "--reference", str(base), folder=base))
    served = _quality(tmp_path)["served"]
    assert (served["endpoint"], served["answer"]) == ("/v1/completions", " Paris")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("dies", r"ended with status 3 before it was healthy; its last lines:\nloading weights\nCUDA out of memory"),
        ("garbage", "answered with something other than JSON: <html>"),
        ("refuses", "answered with status 404: .*no such model"),
        ("mute", "the reply has no text"),
        ("odd", "the reply has no text"),
        ("crashes", "its last lines:\nloading weights"),
    ],
)
def test_a_bad_server_fails_the_check_with_its_last_lines(
    arguments: Callable[..., list[str]], tmp_path: Path, how: str, reason: str
) -> None:
    with pytest.raises(CheckFailedError, match=reason):
        verify.main(arguments(how))
    assert not _check(tmp_path)["passed"]
    assert _quality(tmp_path)["served"] is None
    assert _is_gone(int((tmp_path / "pid").read_text()))


def test_a_server_that_never_becomes_healthy_is_given_up(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"not healthy after 1.5 seconds"):
        verify.main(arguments("never", "--startup-timeout", "1.5"))
    assert _is_gone(int((tmp_path / "pid").read_text()))


def test_a_command_that_does_not_exist_fails_the_check(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    options = arguments("good")
    with pytest.raises(CheckFailedError, match="trtllm-serve-that-is-not-there"):
        verify.main([*options[: options.index("--")], "--", "trtllm-serve-that-is-not-there"])
    assert not _check(tmp_path)["passed"]


def test_a_port_that_somebody_else_uses_is_not_mistaken_for_our_server(
    arguments: Callable[..., list[str]], tmp_path: Path, port: int
) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(CheckFailedError, match="something else listens"):
        verify.main(arguments("good"))
    assert not (tmp_path / "pid").exists()


def test_a_bad_checkpoint_is_not_served(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckFailedError):
        verify.main(arguments("good", folder=empty))
    assert not (tmp_path / "pid").exists()


def test_workers_of_a_server_are_stopped_with_it(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    verify.main(arguments("family"))
    assert _is_gone(int((tmp_path / "worker").read_text()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_verify_stops_the_server(
    arguments: Callable[..., list[str]], tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "orchestrator.payloads.verify", *arguments("never")]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}) as process:
        _wait_for(tmp_path / "pid")
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert _is_gone(int((tmp_path / "pid").read_text()))


def _wait_for(file: Path) -> None:
    for _ in range(400):
        if file.exists() and file.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"{file} did not appear")


def test_a_server_of_gpt_oss_gets_its_vocabulary(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(harmony.VARIABLE, raising=False)
    monkeypatch.setattr(harmony, "DIGEST", hashlib.sha256(b"YQ== 0\n").hexdigest())
    write_json(tmp_path / "config.json", {"architectures": ["GptOssForCausalLM"]})
    write_json(tmp_path / "tokenizer.json", {"model": {"vocab": {"a": 0}}})
    code = f"import os; print(open(os.environ['{harmony.VARIABLE}'] + '/{harmony.FILE}').read())"
    server = Server([sys.executable, "-c", code], tmp_path, port, tmp_path / "log", 5, 5)
    with pytest.raises(CheckFailedError, match="YQ== 0"), server.started():
        pass
    (tmp_path / "tokenizer.json").unlink()
    with (
        pytest.raises(CheckFailedError, match=r"warning: .*tokenizer\.json: expected the vocabulary"),
        server.started(),
    ):
        pass
