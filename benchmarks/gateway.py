"""The gateway beside a direct connection to the same stand-in server: what does it add, and how much passes through?

    .venv/bin/python benchmarks/gateway.py [--requests 3000] [--chunks 50000]

Requests go in pairs over connections that are kept: one directly, one through the gateway. Streams are read as fast as
they come, with the model's name translated in every chunk. The gateway has a core of its own where there are two, and
all three programs go before others where that is allowed, so that a busy machine can be measured on. Then eight clients
send bodies of 15 MiB that are as hard to read as a body can be, while another one asks whether the server lives. Exit
status 7 where it adds more than 1 ms at the median or 5 ms at the 99th percentile, passes under 5000 chunks a second,
or takes more than 0.5 s for that question, or more than 512 MiB with the process that reads the bodies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.gateway import Deployment, chat, deployed

MEDIAN, P99, CHUNKS, LIVE, MEMORY = 0.001, 0.005, 5000, 0.5, 512 << 20
"""Seconds, seconds, a second, seconds, bytes."""
_BODY, _CLIENTS = 15 << 20, 8
_WARM = 200
_MISSED = 7
_TICK = os.sysconf("SC_CLK_TCK")


class Line:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=300)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, model: str) -> float:
        """Ask once; gives the seconds to the whole answer."""
        request = _request(chat("hello", model=model))
        begin = time.perf_counter()
        self._socket.sendall(request)
        answer = self._socket.recv(1 << 16)
        while not _is_whole(answer):
            answer += self._socket.recv(1 << 16)
        return time.perf_counter() - begin

    def stream(self, model: str, chunks: int) -> float:
        """Read a stream; gives the chunks of text in a second."""
        self._socket.sendall(_request(chat(f"[chunks {chunks}]", model=model, stream=True)))
        begin, seen, end = 0.0, 0, b""
        while not end.endswith(b"0\r\n\r\n"):
            part = self._socket.recv(1 << 18)
            begin = begin or time.perf_counter()
            whole = end + part
            seen += whole.count(b'"delta"') - end.count(b'"delta"')
            end = whole[-16:]
        seconds = time.perf_counter() - begin
        if seen < chunks:
            message = f"{seen} of {chunks} chunks arrived"
            raise SystemExit(message)
        return seen / seconds


def _request(body: object) -> bytes:
    content = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def _is_whole(answer: bytes) -> bool:
    head, ended, body = answer.partition(b"\r\n\r\n")
    if not ended:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0].split(b":")[1]) if lengths else body.endswith(b"0\r\n\r\n")


def _pin(server: Deployment) -> int:
    """Give the gateway a core of its own, the stand-in and this script another; gives the stand-in's port."""
    assert server.process is not None  # noqa: S101 - it is ready
    gateway = server.process.pid
    child = int(Path(f"/proc/{gateway}/task/{gateway}/children").read_text(encoding="ascii").split()[0])
    for process in (gateway, child, os.getpid()):
        _go_first(process)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        _keep_on(gateway, cores[0])
        _keep_on(child, cores[1])
        os.sched_setaffinity(0, {cores[1]})
    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    return int(words[words.index(b"--port") + 1])


def _go_first(process: int) -> None:
    with contextlib.suppress(PermissionError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))


def _keep_on(process: int, core: int) -> None:
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _percentile(seconds: Sequence[float], share: float) -> float:
    return sorted(seconds)[int(len(seconds) * share)]


def measure(server: Deployment, requests: int, chunks: int) -> dict[str, float]:
    """Measure one deployment."""
    behind = Line(_pin(server))
    front = Line(server.port)
    assert server.process is not None  # noqa: S101 - it is ready
    for _ in range(_WARM):
        front.ask("tiny")
        behind.ask("model")
    direct, through = [], []
    before = _processor_seconds(server.process.pid)
    for _ in range(requests):
        direct.append(behind.ask("model"))
        through.append(front.ask("tiny"))
    worked = _processor_seconds(server.process.pid) - before
    memory = next(
        int(line.split()[1])
        for line in Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii").splitlines()
        if line.startswith("VmHWM")
    )
    return {
        "direct_median_ms": 1e3 * statistics.median(direct),
        "through_median_ms": 1e3 * statistics.median(through),
        "added_median_ms": 1e3 * statistics.median(b - a for a, b in zip(direct, through, strict=True)),
        "added_p99_ms": 1e3 * (_percentile(through, 0.99) - _percentile(direct, 0.99)),
        "processor_ms_per_request": 1e3 * worked / requests,
        "direct_chunks_per_second": behind.stream("model", chunks),
        "through_chunks_per_second": front.stream("tiny", chunks),
        "memory_mb": memory / 1e3,
    }


def measure_large_bodies(server: Deployment) -> dict[str, float]:
    """Ask a server whether it lives while it reads bodies of nothing but empty lists."""
    assert server.process is not None  # noqa: S101 - it is ready
    gateway = server.process.pid
    known = _children(gateway)
    body = b'{"model": "tiny", "documents": [' + b"[]," * (_BODY // 3) + b"1]}"
    ask = ("POST", "/v1/chat/completions", body)
    clients = [threading.Thread(target=server.request, args=ask) for _ in range(_CLIENTS)]
    for client in clients:
        client.start()
    live, memory = [], 0
    while any(client.is_alive() for client in clients):
        begin = time.perf_counter()
        server.get("/v1/health/live")
        live.append(time.perf_counter() - begin)
        memory = max(memory, sum(map(_resident, (gateway, *(_children(gateway) - known)))))
    return {"live_beside_large_bodies_ms": 1e3 * max(live), "memory_with_large_bodies_mb": memory / 1e6}


def _children(process: int) -> set[int]:
    return set(map(int, Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()))


def _resident(process: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--chunks", type=int, default=50_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        quiet = {"NIM_LOG_LEVEL": "WARNING", "STANDIN_LOG": os.devnull}
        with deployed(Path(name) / "bundle", variables=quiet) as server:
            found = measure(server, arguments.requests, arguments.chunks) | measure_large_bodies(server)
    reached = {
        "median": found["added_median_ms"] <= 1e3 * MEDIAN,
        "p99": found["added_p99_ms"] <= 1e3 * P99,
        "chunks": found["through_chunks_per_second"] >= CHUNKS,
        "live": found["live_beside_large_bodies_ms"] <= 1e3 * LIVE,
        "memory": found["memory_with_large_bodies_mb"] <= MEMORY / 1e6,
    }
    print(json.dumps({**{key: round(value, 3) for key, value in found.items()}, "reached": reached}, indent=1))
    return 0 if all(reached.values()) else _MISSED


if __name__ == "__main__":
    sys.exit(main())
