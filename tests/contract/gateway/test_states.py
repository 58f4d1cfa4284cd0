"""Starting, ready, silent, ended, stopping: what clients are told, and how the program ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Deployment, chat, deployed, example_serve
from tests.support.ports import free_port

NEWER = "trtllm-serve-2026-07"


@pytest.mark.parametrize(("table", "reason"), [
    ("trtllm-serve-1.3.0rc3", "it does not listen"),
    (NEWER, "its health check has status 503"),
])  # fmt: skip
def test_while_the_model_loads_the_server_lives_and_is_not_ready(tmp_path: Path, table: str, reason: str) -> None:
    with deployed(tmp_path, ready=False, table=table, variables={"STANDIN_SECONDS": "5"}) as server:
        server.wait_for(lambda: server.get("/v1/health/live")[0] == 200)
        server.wait_for(lambda: reason in json.dumps(server.get("/v1/health/ready")[1]), 3)
        status, headers, body = server.request("POST", "/v1/chat/completions", {"model": "tiny", "messages": []})
        assert (status, json.loads(body)["error"]["code"]) == (503, "not_ready")
        assert int(headers["retry-after"]) > 0
        assert server.get("/v1/models")[0] == 503
        assert server.get("/v1/metadata")[0] == 200
        assert 'nim_gateway_runtime_ready{model_name="tiny"} 0' in server.get("/v1/metrics")[1]["text"]
        server.wait_ready()
        assert server.ask("hello")[1]["model"] == "tiny"


def test_a_version_that_takes_the_name_is_given_it(tmp_path: Path) -> None:
    with deployed(tmp_path, table=NEWER, variables={"NIM_SERVED_MODEL_NAME": "meta/llama, llama"}) as server:
        assert [model["id"] for model in server.get("/v1/models")[1]["data"]] == ["meta/llama", "llama"]
        for name in ("meta/llama", "llama"):
            assert server.ask("hello", model=name)[1]["model"] == "meta/llama"
        assert server.ask("hello")[0] == 404


def test_a_server_that_dies_is_told_of_and_ends_the_program(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_LINGER_SECONDS": "2"}) as server:
        assert server.ask("[die]")[0] == 502
        server.wait_for(lambda: server.get("/v1/health/live")[0] == 503)
        for path in ("/v1/health/live", "/v1/health/ready", "/v1/models"):
            status, document = server.get(path)
            assert (status, document["error"]["message"]) == (503, "trtllm-serve ended with status 9")
        assert server.ask("hello")[0] == 503
        assert server.wait_end() == 5
        ending = server.log.rpartition("error: ")[2].splitlines()
        assert ending[0] == "trtllm-serve ended with status 9; its last lines:"
        assert ending[-1] == "  RuntimeError: the stand-in was told to die"


def test_the_json_log_has_the_last_lines_of_a_server_that_died_as_json(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_JSONL_LOGGING": "1"}) as server:
        assert server.ask("[die]")[0] == 502
        assert server.wait_end() == 5
        lines = [json.loads(line) for line in server.log.splitlines()]
        assert lines[-1]["message"] == "trtllm-serve ended with status 9"
        assert (lines[-1]["level"], lines[-1]["source"], lines[-1]["exit_status"]) == ("ERROR", "gateway", 5)
        assert lines[-1]["last_lines"][-1] == "RuntimeError: the stand-in was told to die"


def test_errors_of_settings_are_json_too_in_a_json_log(tmp_path: Path) -> None:
    server = Deployment(tmp_path)
    server.lay_out()
    ended = server.act(NIM_JSONL_LOGGING="1", NIM_GATEWAY_DRAIN_SECONDS="soon")
    found = json.loads(ended.stderr)
    assert (ended.returncode, found["exit_status"]) == (4, 4)
    assert found["message"] == "NIM_GATEWAY_DRAIN_SECONDS=soon: expected a number"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with deployed(tmp_path, ready=False, variables={"STANDIN_FAIL": "trtllm-serve"}) as server:
        assert server.wait_end() == 5
        assert "error: trtllm-serve ended with status 1; its last lines:\n  trtllm-serve: told to fail" in server.log


def test_a_server_that_falls_silent_is_not_ready(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_HEALTH_SECONDS": "0.5"}) as server:
        thread = threading.Thread(target=lambda: _ignore(server, "[hang]"), daemon=True)
        thread.start()
        server.wait_for(lambda: server.get("/v1/health/ready")[0] == 503)
        assert "no longer answers" in server.get("/v1/health/ready")[1]["error"]["message"]
        assert server.get("/v1/health/live")[0] == 200
        os.kill(_process(server).pid, signal.SIGINT)  # does not wait for what hangs: the second signal
        server.wait_for(lambda: server.get("/v1/health/ready")[1]["error"]["code"] == "stopping")
        os.kill(_process(server).pid, signal.SIGINT)
        assert server.wait_end() == 0


@pytest.mark.parametrize("question", ["[hang] hello", "[stall] hello"])
def test_a_server_that_hangs_with_a_request_ends_the_program_so_that_it_is_started_again(
    tmp_path: Path, question: str
) -> None:
    variables = {
        "NIM_GATEWAY_HEALTH_SECONDS": "0.5",
        "NIM_GATEWAY_SILENCE_SECONDS": "2",
        "NIM_GATEWAY_LINGER_SECONDS": "5",
    }
    with deployed(tmp_path, variables=variables) as server:
        threading.Thread(target=lambda: _ignore(server, question, stream=True), daemon=True).start()
        server.wait_for(lambda: server.get("/v1/health/live")[0] == 503)
        error = server.get("/v1/health/live")[1]["error"]
        assert (error["code"], error["message"].partition(":")[0]) == ("runtime_hung", "trtllm-serve hangs")
        assert server.get("/v1/health/ready")[0] == 503
        children = _children(_process(server).pid)
        assert server.wait_end() == 7
        assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_server_without_requests_or_with_slow_answers_does_not_hang(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_SILENCE_SECONDS": "1"}) as server:
        assert server.ask("[slow 3] hello")[0] == 200  # not streamed: nothing is due before its end
        status, _, body = server.request("POST", "/v1/chat/completions", chat("[slow 0.5] [chunks 5]", stream=True))
        assert (status, body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert server.get("/v1/health/live")[0] == 200
        assert "hangs" not in server.log


def test_running_requests_finish_before_the_end(tmp_path: Path) -> None:
    with deployed(tmp_path) as server:
        answers: list[tuple[int, dict[str, Any]]] = []
        thread = threading.Thread(target=lambda: answers.append(server.ask("[slow 5] hello")))
        thread.start()
        server.wait_for(lambda: 'model_requests_running{model_name="tiny"} 1' in server.get("/v1/metrics")[1]["text"])
        os.kill(_process(server).pid, signal.SIGTERM)
        server.wait_for(lambda: server.get("/v1/health/ready")[0] == 503)
        status, headers, _ = server.request("POST", "/v1/chat/completions", {"model": "tiny"})
        assert (status, "retry-after" in headers) == (503, True)
        assert server.get("/v1/health/live")[0] == 200
        thread.join(30)
        assert answers[0][0] == 200
        assert server.wait_end() == 0
        assert "cut off" not in server.log
        assert f"listening port={server.port}" in server.log


def test_it_ends_as_asked_while_the_model_loads(tmp_path: Path) -> None:
    with deployed(tmp_path, ready=False, variables={"STANDIN_SECONDS": "60"}) as server:
        server.wait_for(lambda: "loading: 1/20" in server.log)
        assert server.stop() == 0
        assert "5/20" not in server.log


def test_without_room_for_a_changed_configuration_it_says_so(tmp_path: Path) -> None:
    server = Deployment(tmp_path, variables={"NIM_KVCACHE_PERCENT": "0.5"})
    server.lay_out()
    (tmp_path / "full").touch()
    hidden = {"TMPDIR": str(tmp_path / "full"), "PYTHONPATH": str(_without_temporary(tmp_path))}
    ended = server.act(NIM_SERVER_PORT=str(free_port()), NIM_GATEWAY_RUNTIME_PORT=str(free_port()), **hidden)
    assert ended.returncode == 6
    assert "mount a tmpfs at /tmp" in ended.stderr


def test_requests_that_take_too_long_are_cut_off(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_GATEWAY_DRAIN_SECONDS": "0.5"}) as server:
        thread = threading.Thread(target=lambda: _ignore(server, "[slow 60] hello"), daemon=True)
        thread.start()
        server.wait_for(lambda: 'model_requests_running{model_name="tiny"} 1' in server.get("/v1/metrics")[1]["text"])
        assert server.stop() == 0
        assert "requests cut off requests=1" in server.log


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"NIM_KVCACHE_PERCENT": "0.5"}) as server:
        (copy,) = tmp_path.glob("nim-gateway-*/trtllm_config.yaml")
        assert json.loads(copy.read_text())["kv_cache_config"]["free_gpu_memory_fraction"] == 0.5
        children = _children(_process(server).pid)
        assert children
        assert server.stop() == 0
    assert not list(tmp_path.glob("nim-gateway-*"))
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_trtllm_serve_listens_on_loopback_and_gets_no_variable_of_ours(tmp_path: Path) -> None:
    with deployed(tmp_path, variables={"PYTHONPATH": "/elsewhere"}) as server:
        (child,) = _children(_process(server).pid)
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        assert b"PYTHONPATH=/elsewhere" in variables
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        assert words[words.index(b"--host") + 1] == b"127.0.0.1"


def test_an_engine_is_served(tmp_path: Path) -> None:
    arguments = ("--backend", "tensorrt")
    serve = example_serve(engine="trtllm_engine", backend="tensorrt", arguments=arguments)
    with deployed(tmp_path, serve=serve) as server:
        assert server.ask("hello")[1]["model"] == "tiny"


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    server = Deployment(tmp_path)
    server.lay_out()
    with deployed(tmp_path / "other") as other:
        ended = server.act(NIM_SERVER_PORT=str(other.port), NIM_GATEWAY_RUNTIME_PORT=str(free_port()))
    assert ended.returncode == 6
    assert ended.stderr == f"error: cannot listen on 127.0.0.1:{other.port}: Address already in use\n"


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    server = Deployment(tmp_path, serve=example_serve(command=("trtllm-nothing", "serve")))
    server.lay_out()
    ended = server.act(NIM_SERVER_PORT=str(free_port()), NIM_GATEWAY_RUNTIME_PORT=str(free_port()))
    assert (ended.returncode, ended.stderr) == (6, "error: cannot start trtllm-nothing: No such file or directory\n")


def test_health_has_a_port_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    with deployed(tmp_path, variables={"NIM_HEALTH_PORT": str(port)}) as server:
        main, server.port = server.port, port
        assert server.get("/v1/health/ready")[0] == 200
        assert server.get("/v1/models")[0] == 404
        server.port = main
        assert server.get("/v1/models")[0] == 200


def _without_temporary(folder: Path) -> Path:
    """Make Python find no temporary folder, as on a root that is read-only."""
    place = folder / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text("import tempfile\ntempfile._candidate_tempdir_list = lambda: []\n")
    return place


def _ignore(server: Deployment, question: str, *, stream: bool = False) -> None:
    try:
        server.ask(question, stream=stream)
    except (OSError, http.client.HTTPException):
        return


def _process(server: Deployment) -> subprocess.Popen[str]:
    assert server.process is not None
    return server.process


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
