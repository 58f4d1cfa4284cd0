"""A bundle's documents and model, small; and its server, started as the bundle starts it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bundle.gateway.documents import Limits, Profile, Serve, ServeOption
from orchestrator.bundle.gateway.launch import Launch, decide_launch
from orchestrator.bundle.gateway.routes import routes_of
from orchestrator.bundle.gateway.runtimes import RUNTIMES
from orchestrator.bundle.gateway.settings import read_settings
from orchestrator.bundle.gateway.variables import Environment
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
kv_cache_config:
  free_gpu_memory_fraction: 0.8
  enable_block_reuse: true
return_perf_metrics: true
enable_iter_perf_stats: true
guided_decoding_backend: "xgrammar"
"""
GATEWAY = ROOT / "orchestrator" / "bundle" / "gateway"


VLLM = "vllm-serve-0.27.1"


def example_vllm(**changes: Any) -> Serve:  # noqa: ANN401 - any field
    """Return the serving options of a small recipe with vLLM."""
    serve = example_serve(
        backend="",
        runtime="vllm",
        version="0.27.1",
        command=("vllm", "serve"),
        config="",
        arguments=("--max-num-seqs", "8", "--max-num-batched-tokens", "2048", "--kv-cache-memory-bytes", "1024M"),
        options=serve_options(VLLM),
        profile=Profile("cd" * 32, "vllm-nvfp4-tp1-pp1", {"llm_engine": "vllm", "tp": "1"}),
    )
    return dataclasses.replace(serve, **changes)


def serve_options(table: str = "trtllm-serve-1.3.0rc3") -> tuple[ServeOption, ...]:
    """Read the options of one version of trtllm-serve."""
    found = json.loads((ROOT / "docker" / "tools" / f"{table}.json").read_bytes())
    return tuple(ServeOption(tuple(each["flags"]), each["type"], tuple(each.get("choices") or ())) for each in found)


def example_serve(**changes: Any) -> Serve:  # noqa: ANN401 - any field
    """Return the serving options of a small recipe."""
    serve = Serve(
        recipe="tiny",
        backend="pytorch",
        runtime="tensorrt_llm",
        version="1.2.1",
        command=("trtllm-serve", "serve"),
        model="/opt/nim/model",
        engine=None,
        served_model_name="tiny",
        config="/opt/nim/etc/trtllm_config.yaml",
        arguments=("--backend", "pytorch", "--max_batch_size", "8", "--max_num_tokens", "2048"),
        options=serve_options(),
        limits=Limits(max_seq_len=4096),
        profile=Profile("ab" * 32, "tensorrt_llm-nvfp4-tp1-pp1", {"llm_engine": "tensorrt_llm", "tp": "1"}),
    )
    return dataclasses.replace(serve, **changes)


def write_documents(folder: Path, serve: Serve, config: str = CONFIG) -> None:
    """Write a bundle's documents."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = f"schema_version: 2.0.0\nprofiles:\n- id: {serve.profile.id}\n"
    license_info = {
        "name": "Apache-2.0",
        "path": "license",
        "sha": "",
        "size": 0,
        "url": "",
        "type": "file",
        "content": "",
    }
    metadata = {
        "assetInfo": [],
        "licenseInfo": license_info,
        "modelInfo": [{"shortName": serve.recipe, "modelUrl": ""}],
        "repository_override": "",
        "version": "0.1.0",
        "selectedModelProfileId": serve.profile.id,
    }
    texts = {
        "serve.json": serve.to_json(),
        "model_manifest.yaml": manifest,
        "metadata.json": json.dumps(metadata),
        "license.json": json.dumps(license_info),
        "version.json": json.dumps({"release": "0.1.0", "api": "1.0.0"}),
        "trtllm_config.yaml": config,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


@dataclass
class Deployment:
    """A bundle's server with the stand-in behind it, started as the bundle starts it.

    Args:
        folder: Where the bundle is laid out, as an image has it in /opt/nim.
        serve: What the recipe says; None for the small example.
        table: The version of trtllm-serve, by the table of its options.
        variables: More variables; `{folder}` in them is the folder.
        config: The content of trtllm_config.yaml.
    """

    folder: Path
    serve: Serve | None = None
    table: str = "trtllm-serve-1.3.0rc3"
    variables: Mapping[str, str] = field(default_factory=dict)
    config: str = CONFIG
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def lay_out(self) -> None:
        """Write the files of the bundle."""
        etc = self.folder / "etc"
        serve = self.serve or example_serve()
        serve = dataclasses.replace(
            serve,
            options=serve_options(self.table),
            config=str(etc / "trtllm_config.yaml") if serve.config else "",
            model=str(self.folder / "model"),
        )
        write_documents(etc, serve, self.config)
        write_model(self.folder / "model", serve.engine)
        shutil.copytree(GATEWAY, self.folder / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(GATEWAY.parent / "start_server.sh", self.folder / "start_server.sh")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that it is started with: nothing of this shell's but its PATH."""
        standins = ROOT / "tests" / "support" / "standins"
        given = {name: value.replace("{folder}", str(self.folder)) for name, value in self.variables.items()}
        return {
            "PATH": f"{standins}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "NIM_GATEWAY_ETC": str(self.folder / "etc"),
            "NIM_GATEWAY_HOST": "127.0.0.1",
            "NIM_GATEWAY_LINGER_SECONDS": "0.5",
            "NIM_GATEWAY_SHUTDOWN_DELAY_SECONDS": "0",
            "STANDIN_LOG": str(self.folder / "standin.log"),
            "STANDIN_QUIET": "1",
            "STANDIN_TABLES": self.table,
            "TMPDIR": str(self.folder),
            **given,
        }

    def act(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run an action to its end."""
        command = [str(self.folder / "start_server.sh"), *arguments]
        environment = {**self.environment, **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def start(self) -> None:
        """Start the server; it is not ready yet."""
        self.port = free_port()
        other = next(port for port in iter(free_port, None) if port != self.port)
        ports = {"NIM_SERVER_PORT": str(self.port), "NIM_GATEWAY_RUNTIME_PORT": str(other)}
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(self.folder / "start_server.sh")], env={**self.environment, **ports},
                stdout=log, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip

    def wait_ready(self) -> None:
        """Wait until the model answers."""

        def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended; the log:\n{self.log}"
            return self.get("/v1/health/ready")[0] == 200

        self.wait_for(is_ready)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something that will be; the log says why it is not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if condition():
                    return
            time.sleep(0.05)
        pytest.fail(f"waited in vain; the log:\n{self.log}")

    def wait_end(self, seconds: float = 60) -> int:
        """Wait for the end and give the exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> int:
        """Ask it to end, and give the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    @property
    def own_routes(self) -> frozenset[str]:
        """The routes that its runtime has."""
        kind = RUNTIMES[(self.serve or example_serve()).runtime]
        return frozenset(route.path for route in routes_of(kind.FIELDS, kind.STORED))

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "log").read_text(encoding="utf-8")

    @property
    def heard(self) -> list[dict[str, Any]]:
        """What the stand-in was asked, in order."""
        file = self.folder / "standin.log"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Ask once; a header's name has `_` for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        content = None
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, content, given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        """Get a document; one that is not JSON is under `text`."""
        status, _, body = self.request("GET", path, **headers)
        return status, _document(body)

    def ask(self, question: str, *, path: str = "/v1/chat/completions", **fields: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - any field
        """Ask the model."""
        headers = fields.pop("headers", {})
        question_field = {"/v1/completions": "prompt", "/v1/responses": "input"}.get(path)
        document = {"model": "tiny", question_field: question} if question_field else chat(question)
        status, _, body = self.request("POST", path, {**document, **fields}, **headers)
        return status, _document(body)

    def raw(self, data: bytes, *, seconds: float = 10) -> bytes:
        """Send bytes as they are, and give what comes back until the connection ends or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            answer = b""
            with contextlib.suppress(OSError):
                while part := connection.recv(1 << 16):
                    answer += part
            return answer


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {"text": body.decode()}
    assert isinstance(found, dict)
    return found


def chat(question: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of a request
    """Make the body of a request."""
    return {"model": "tiny", "messages": [{"role": "user", "content": question}], **fields}


@contextlib.contextmanager
def deployed(
    folder: Path,
    *,
    ready: bool = True,
    kind: type[Deployment] = Deployment,
    **fields: Any,  # noqa: ANN401 - of a Deployment
) -> Iterator[Deployment]:
    """Start a deployment, and stop it at the end."""
    deployment = kind(folder, **fields)
    deployment.lay_out()
    deployment.start()
    try:
        if ready:
            deployment.wait_ready()
        yield deployment
    except BaseException:
        sys.stdout.write(deployment.log)  # pytest shows it beside the failure
        raise
    finally:
        deployment.stop()


def write_model(folder: Path, engine: str | None = None) -> None:
    """Write the files that the stand-in looks for."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}', encoding="utf-8")
    if engine:
        (folder / engine).mkdir()
        (folder / engine / "config.json").write_text("{}", encoding="utf-8")
        (folder / engine / "rank0.engine").write_bytes(b"engine")


class LaunchWorld:
    """A folder with a model, and the command lines that its document makes of variables."""

    def __init__(self, folder: Path, example: Serve) -> None:
        self.folder = folder
        self.example = example
        write_model(folder / "model")

    def serve(self, **changes: Any) -> Serve:  # noqa: ANN401 - any field
        return dataclasses.replace(self.example, model=str(self.folder / "model"), **changes)

    def launch(self, values: Mapping[str, str], *arguments: str, serve: Serve | None = None) -> Launch:
        serve, environment = serve or self.serve(), Environment(values)
        return decide_launch(serve, read_settings(environment, serve), environment, arguments)
