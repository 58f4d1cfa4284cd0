"""Our downloader against huggingface_hub's: the same files from a Hub on this machine, paired in one run.

    .venv/bin/python benchmarks/download.py [--gigabytes 2] [--shards 8] [--pairs 3] [--rate MB_PER_S]

It prints three figures: how fast ours is with every byte checked, as a share of theirs without; how many bytes ours
moves after it was killed at half of the size, as a share of what theirs moves; and the peak of our memory.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPO = "bench/model"
COMMIT = "b" * 40
GOALS = {"speed": 0.9, "moved": 0.55, "memory": 150 * 2**20}
_BLOCK = 1 << 20
_THEIRS = f"""
from huggingface_hub import snapshot_download
snapshot_download("{REPO}", revision="{COMMIT}")
"""


@dataclass(frozen=True)
class World:
    """What the Hub of a benchmark serves."""

    folder: Path
    files: dict[str, str]
    """sha256 by name."""
    rate: float
    """Bytes a second of each connection; 0: no limit."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="MB/s of each connection; 0: as fast as it goes")
    parser.add_argument("--folder", type=Path, help="where the files lie and arrive; a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        world = _make(Path(name), int(options.gigabytes * 2**30), options.shards, options.rate * 1e6)
        figures = _measure(world, options.pairs)
    print(json.dumps(figures, indent=1))
    good = (
        figures["speed_ratio"] >= GOALS["speed"]
        and figures["moved_ratio"] <= GOALS["moved"]
        and figures["peak_bytes"] <= GOALS["memory"]
    )
    return 0 if good else 7


def _measure(world: World, pairs: int) -> dict[str, Any]:
    size = sum((world.folder / name).stat().st_size for name in world.files)
    served = multiprocessing.Value("q", 0)
    port: Any = multiprocessing.Queue()
    hub = multiprocessing.Process(target=_serve, args=(world, served, port), daemon=True)
    hub.start()
    endpoint = f"http://127.0.0.1:{port.get()}"
    try:
        runs = []
        for number in range(pairs):
            pair = {}
            for who in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
                pair[who] = _timed(world, endpoint, who)
            runs.append(pair)
            print(f"pair {number + 1}: " + ", ".join(f"{w} {s:.2f} s" for w, (s, _) in pair.items()), file=sys.stderr)
        moved = {who: _moved_after_kill(world, endpoint, who, size, served) for who in ("ours", "theirs")}
    finally:
        hub.terminate()
        hub.join()
    return {
        "bytes": size,
        "seconds": {who: [round(run[who][0], 2) for run in runs] for who in ("ours", "theirs")},
        "speed_ratio": round(statistics.median(run["theirs"][0] / run["ours"][0] for run in runs), 3),
        "moved_after_kill": moved,
        "moved_ratio": round(moved["ours"] / moved["theirs"], 3),
        "peak_bytes": max(run["ours"][1] for run in runs),
        "peak_bytes_theirs": max(run["theirs"][1] for run in runs),
    }


def _timed(world: World, endpoint: str, who: str) -> tuple[float, int]:
    """Download once into a fresh cache.

    Returns:
        Seconds, and the peak of its resident memory in bytes.
    """
    place = _fresh(world)
    os.sync()
    started = time.monotonic()
    process = _start(place, endpoint, who)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        message = f"{who} failed: {status}"
        raise RuntimeError(message)
    shutil.rmtree(place)
    return seconds, usage.ru_maxrss * 1024


def _moved_after_kill(world: World, endpoint: str, who: str, size: int, served: Any) -> int:  # noqa: ANN401 - a shared number
    place = _fresh(world)
    before = served.value
    process = _start(place, endpoint, who)
    while served.value - before < size / 2 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # what was on its way has left
    before = served.value
    if _start(place, endpoint, who).wait():
        message = f"{who} failed after its kill"
        raise RuntimeError(message)
    moved = int(served.value - before)
    shutil.rmtree(place)
    return moved


def _fresh(world: World) -> Path:
    place = world.folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    (place / "out").mkdir(parents=True)
    return place


def _start(place: Path, endpoint: str, who: str) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "HF_HOME": str(place / "hf"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(ROOT),
    }
    out = place / f"out-{time.monotonic_ns()}"
    out.mkdir()
    ours = ["-m", "orchestrator.payloads.download", "--repo", REPO, "--revision", COMMIT, "--output", str(out)]
    command = [sys.executable, *(ours if who == "ours" else ["-c", _THEIRS])]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def _make(folder: Path, size: int, shards: int, rate: float) -> World:
    files = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        digest = hashlib.sha256()
        with (folder / name).open("wb") as stream:
            for _ in range(max(1, size // shards // _BLOCK)):
                block = os.urandom(_BLOCK)
                digest.update(block)
                stream.write(block)
        files[name] = digest.hexdigest()
    config = b'{"architectures": ["LlamaForCausalLM"]}'
    (folder / "config.json").write_bytes(config)
    files["config.json"] = hashlib.sha256(config).hexdigest()
    return World(folder, files, rate)


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers what a download asks; the bytes go from file to socket inside the kernel, so that it costs little."""

    protocol_version = "HTTP/1.1"
    world: World
    served: Any

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer."""
        if "/tree/" in self.path:
            self._tree()
        elif self.path.startswith("/api/"):
            self._json({"id": REPO, "sha": COMMIT, "siblings": []})
        else:
            self._file(self.path.rpartition("/")[2])

    def _tree(self) -> None:
        entries = []
        for name, sha256 in self.world.files.items():
            size = (self.world.folder / name).stat().st_size
            lfs = {"oid": sha256, "size": size, "pointerSize": 134}
            entries.append({"type": "file", "path": name, "size": size, "oid": sha256[:40], "lfs": lfs})
        self._json(entries)

    def _json(self, document: object) -> None:
        text = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def _file(self, name: str) -> None:
        file = self.world.folder / name
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{self.world.files[name]}"')
        self.send_header("X-Linked-Size", str(size))
        self.send_header("ETag", f'"{self.world.files[name]}"')
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        if self.command == "GET":
            with suppress(OSError):  # the client was killed
                self._send(file, start, size)
                return
            self.close_connection = True

    def _send(self, file: Path, offset: int, size: int) -> None:
        self.wfile.flush()
        with file.open("rb") as stream:
            while offset < size:
                sent = os.sendfile(self.connection.fileno(), stream.fileno(), offset, min(size - offset, 1 << 18))
                offset += sent
                with self.served.get_lock():
                    self.served.value += sent
                if self.world.rate:
                    time.sleep(sent / self.world.rate)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the library's signature
        """Say nothing of connections that a kill broke."""


def _serve(world: World, served: Any, port: Any) -> None:  # noqa: ANN401 - shared between processes
    handler = type("Handler", (_Hub,), {"world": world, "served": served})
    server = _Server(("127.0.0.1", 0), handler)
    port.put(server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
