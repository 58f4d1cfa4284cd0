"""Serve a bundle with its real runtime and without a container: `python -m evaluation.serving BUNDLE`.

Needs what an image of the runtime has: a GPU, the runtime's command on PATH, and a Python with aiohttp and openai. The
bundle's own start_server.sh starts gateway and runtime; the official client of OpenAI asks the gateway. Checked and
measured are

1. the files of the model, against the bundle's SHA256SUMS;
2. seconds until the server is ready, and the kernels that its log names;
3. one streamed answer, and 16 at once, with tokens per second beside the plan's;
4. that nothing but the contract's routes can be reached;
5. what happens if the runtime is killed: the server ends with its code, and starts again.

Prints a table, and ends with status 7 where something failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import importlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from orchestrator.bundle.gateway.metrics import KERNEL

_FAILED = 7
_AT_ONCE = 16
_TOKENS = 128
_ANSWER = 256
_MODEL = "model"
_CLOSED = ("/invocations", "/ping", "/docs/oauth2-redirect", "/load", "/scale_elastic_ep", "/generative_scoring")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="a folder of dist/")
    parser.add_argument("--model", type=Path, help="the folder of its model (default: that in the bundle)")
    parser.add_argument("--folder", type=Path, default=Path("build/serving"), help="keeps the server's files and log")
    parser.add_argument("--startup", type=float, default=600, metavar="SECONDS", help="until it is ready at most")
    options = parser.parse_args()
    server = Server(
        options.bundle.resolve(), (options.model or options.bundle / _MODEL).resolve(), options.folder.resolve()
    )
    table = Table()
    table.check("files of the model are those of SHA256SUMS", lambda: _same_files(server))
    try:
        table.check("seconds until ready", lambda: f"{server.start(options.startup):.1f}")
        table.check("kernels", lambda: ", ".join(server.kernels) or "none named")
        table.check("one streamed answer", lambda: _stream(server))
        table.check(f"{_AT_ONCE} at once", lambda: _at_once(server))
        table.check("other routes", lambda: _closed(server))
        table.check("killed", lambda: _killed(server, options.startup))
    finally:
        server.stop()
    click.echo(table.text)
    return _FAILED if table.failed else 0


@dataclass
class Table:
    """What was found."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    failed: bool = False

    def check(self, what: str, ask: Callable[[], str]) -> None:
        """Add a row; a failure is one."""
        try:
            found = ask()
        except Exception as error:  # noqa: BLE001 - whatever a server does
            found, self.failed = f"**failed**: {type(error).__name__}: {error!s:.300}", True
        click.echo(f"{what}: {found}", err=True)
        self.rows.append((what, found))

    @property
    def text(self) -> str:
        """The table in Markdown."""
        return "\n".join(("| what | found |", "| --- | --- |", *(f"| {what} | {found} |" for what, found in self.rows)))


@dataclass
class Server:
    """Gateway and runtime, started as an image starts them."""

    bundle: Path
    model: Path
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def serve(self) -> dict[str, Any]:
        """What the bundle says of its server."""
        found: dict[str, Any] = json.loads((self.bundle / "serve.json").read_text(encoding="utf-8"))
        return found

    @property
    def name(self) -> str:
        """The model's name for clients."""
        return str(self.serve["served_model_name"])

    @property
    def url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What both wrote."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    @property
    def kernels(self) -> list[str]:
        """The kernels that the gateway has found in the runtime's log."""
        return re.findall(rf'^{KERNEL}\{{.*kernel="([^"]*)"', self.get("/v1/metrics"), flags=re.MULTILINE)

    def start(self, seconds: float) -> float:
        """Start it, and return how long it took until it was ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, runtime = _free_port(), _free_port()
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "NIM_GATEWAY_ETC": str(self.bundle),
            "NIM_GATEWAY_HOST": "127.0.0.1",
            "NIM_GATEWAY_RUNTIME_PORT": str(runtime),
            "NIM_CACHE_PATH": str(self.folder / "cache"),
            "NIM_MODEL_PATH": str(self.model),
            "NIM_SERVER_PORT": str(self.port),
            **self.serve.get("environment", {}),
        }
        with (self.folder / "log").open("ab") as log:
            command = [str(self.bundle / "start_server.sh")]
            began = time.monotonic()
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        while time.monotonic() - began < seconds:
            if self.process.poll() is not None:
                message = f"it ended with status {self.process.returncode}: {self.log[-2000:]}"
                raise RuntimeError(message)
            if self.status("/v1/health/ready") == 200:  # noqa: PLR2004 - OK
                return time.monotonic() - began
            time.sleep(0.25)
        message = f"it was not ready after {seconds:.0f} s: {self.log[-2000:]}"
        raise RuntimeError(message)

    def status(self, path: str, method: str = "GET") -> int | None:
        """Ask for a path; None if nobody answers."""
        with contextlib.suppress(OSError):
            return self._ask(path, method)[0]
        return None

    def get(self, path: str) -> str:
        """Get a document."""
        return self._ask(path, "GET")[1]

    def _ask(self, path: str, method: str) -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, b"{}" if method == "POST" else None)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def stop(self) -> None:
        """End both."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _same_files(server: Server) -> str:
    lines = (server.bundle / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    files = {name: digest for name, digest in sums.items() if name.startswith(f"{_MODEL}/")}
    for name, digest in files.items():
        with (server.model / name.removeprefix(f"{_MODEL}/")).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                message = f"{name} differs"
                raise ValueError(message)
    return f"{len(files)} files"


def _prompt(seed: int) -> str:
    return " ".join(f"w{(seed * 7919 + number * 104729) % 9973}" for number in range(_TOKENS // 4))


async def _ask(client: Any, model: str, seed: int) -> tuple[float, float, int]:  # noqa: ANN401 - of openai
    """Return the seconds to the first token, those to the last one, and the number of tokens."""
    began, first, tokens = time.monotonic(), 0.0, 0
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": _prompt(seed)}],
        max_tokens=_ANSWER,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.choices and not first:
            first = time.monotonic() - began
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
    return first, time.monotonic() - began, tokens


async def _ask_all(server: Server, seeds: Sequence[int]) -> tuple[float, list[tuple[float, float, int]]]:
    openai = importlib.import_module("openai")
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=300) as client:
        began = time.monotonic()
        answers = await asyncio.gather(*(_ask(client, server.name, seed) for seed in seeds))
        return time.monotonic() - began, answers


def _stream(server: Server) -> str:
    asyncio.run(_ask_all(server, [0]))  # warms up
    found = [asyncio.run(_ask_all(server, [seed]))[1][0] for seed in (1, 2, 3)]
    for _, _, tokens in found:
        _require(tokens == _ANSWER, f"{tokens} tokens instead of {_ANSWER}")
    rate = statistics.median((_ANSWER - 1) / (last - first) for first, last, _ in found)
    first = statistics.median(first for first, _, _ in found)
    return f"{rate:.1f} tokens/s ({_predicted(server)}), the first one after {first * 1000:.0f} ms"


def _at_once(server: Server) -> str:
    asyncio.run(_ask_all(server, range(_AT_ONCE)))
    seconds, answers = asyncio.run(_ask_all(server, range(_AT_ONCE, 2 * _AT_ONCE)))
    tokens = sum(each[2] for each in answers)
    _require(tokens == _AT_ONCE * _ANSWER, f"{tokens} tokens instead of {_AT_ONCE * _ANSWER}")
    return f"{tokens / seconds:.0f} tokens/s in all"


def _predicted(server: Server) -> str:
    found = json.loads((server.bundle / "prediction.json").read_text(encoding="utf-8"))["decode_tokens_per_s"]
    return f"planned {found['expected']:.0f}, {found['low']:.0f} to {found['high']:.0f}"


def _closed(server: Server) -> str:
    answers = {path: server.status(path, "POST") for path in _CLOSED}
    _require(set(answers.values()) == {404}, f"{answers}")
    return f"404 for {', '.join(_CLOSED)}"


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from _children(int(child))


def _killed(server: Server, seconds: float) -> str:
    assert server.process is not None  # noqa: S101 - it was started
    victims = [*_children(server.process.pid)]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    status = server.process.wait(120)
    ended = time.monotonic() - began
    _require(status != 0, "it ended with status 0")
    again = server.start(seconds)
    asyncio.run(_ask_all(server, [5]))
    return f"the server ended with status {status} after {ended:.1f} s, and was ready again after {again:.1f} s"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


if __name__ == "__main__":
    sys.exit(main())
