"""A small Hugging Face Hub on this machine: one repository in memory, and faults that a test switches on.

It answers what huggingface_hub asks for a download over plain HTTP: a revision, a tree, and files with their headers.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from tests.support.xet import QuietServer, XetStorage, connection, connection_headers

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>[^/?]+)")
_RESOLVE = re.compile(r"(?P<kind>/datasets)?/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Sent:
    """One answer with a file's bytes."""

    path: str
    start: int
    size: int = 0
    """Bytes that were sent."""


@dataclass
class Hub:
    """What the Hub holds and how it fails."""

    repo: str = "owner/model"
    files: dict[str, bytes] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    token: str | None = None
    """What a request must carry, where set."""
    status: int = 0
    """Answered to everything, where set."""
    gated: bool = False
    """Files are refused; what the Hub says of the repository is not."""
    card: dict[str, Any] = field(default_factory=dict)
    """What the head of its README.md says, such as `license`."""
    corrupt: Counter[str] = field(default_factory=Counter)
    """How many more times a file arrives with one byte changed."""
    short: Counter[str] = field(default_factory=Counter)
    """How many more times a file's connection breaks off halfway."""
    cut: dict[str, list[int]] = field(default_factory=dict)
    """After how many bytes a file's connections break off, one after another."""
    stall: Counter[str] = field(default_factory=Counter)
    """How many more times a file stops halfway and its connection stays."""
    wrong_range: Counter[str] = field(default_factory=Counter)
    """How many more times another part of a file is sent than was asked for."""
    long: Counter[str] = field(default_factory=Counter)
    """How many more times a file has one byte too many."""
    statuses: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    """What is answered to the next requests for a file's bytes: status and headers."""
    busy: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """What is answered to the next questions about the repository: status and headers."""
    ignores_range: bool = False
    rate: float = 0.0
    """Bytes a second of each connection; 0: no limit."""
    kind: str = "model"
    ended: threading.Event = field(default_factory=threading.Event)
    served: Counter[str] = field(default_factory=Counter)
    """How many bytes of each file were sent."""
    sent: list[Sent] = field(default_factory=list)
    """Every answer with a file's bytes."""
    ranges: list[tuple[str, int]] = field(default_factory=list)
    """Where each request for a file's bytes wanted it to begin."""
    listed: dict[str, bytes] = field(default_factory=dict)
    """Files that the tree names besides those that are there."""
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""
    xet: XetStorage | None = None
    """Where the bytes of large files can be had, too."""

    @property
    def fetched(self) -> list[str]:
        """The paths of the files whose bytes were asked for."""
        return [
            line.split("/resolve/")[1].split("/", 1)[1]
            for line in self.requests
            if line.startswith("GET") and "/resolve/" in line
        ]


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


@lru_cache(maxsize=16)  # the same files are asked for again and again
def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@lru_cache(maxsize=64)
def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer on a port of this machine until the block ends."""

    class Handler(_Handler):
        world = hub

    server = QuietServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    world: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.world.requests.append(f"{self.command} {self.path}")
        if self.world.xet and "/xet-read-token/" in self.path:
            self._json(connection(self.world.xet), connection_headers(self.world.xet))
            return
        api, resolve = _API.match(self.path), _RESOLVE.match(unquote(self.path))
        match = api or resolve
        status, headers = self.world.busy.pop(0) if api and self.world.busy else (self.world.status, {})
        if status:
            self._refuse(status, **headers)
        elif match is None or match["repo"] != self.world.repo or self._kind(match) != self.world.kind:
            self._refuse(404, "RepoNotFound")
        elif self.world.token and self.headers.get("authorization") != f"Bearer {self.world.token}":
            self._refuse(401)
        elif match["revision"] not in (*self.world.branches, *self.world.branches.values()):
            self._refuse(404, "RevisionNotFound")
        elif api and api["what"] == "revision":
            self._json(_info(self.world, api["revision"]))
        elif self.world.gated:
            self._refuse(403, "GatedRepo")
        elif api:
            self._json([_entry(path, content) for path, content in (self.world.files | self.world.listed).items()])
        elif match["path"] in self.world.files:
            self._file(match["path"], self.world.files[match["path"]])
        else:
            self._refuse(404, "EntryNotFound")

    @staticmethod
    def _kind(match: re.Match[str]) -> str:
        return "dataset" if match["kind"] in ("dataset", "/datasets") else "model"

    def _refuse(self, status: int, code: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: Any, headers: Mapping[str, str] = MappingProxyType({})) -> None:  # noqa: ANN401 - whatever JSON can say
        text = json.dumps(document).encode()
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def _file(self, path: str, content: bytes) -> None:
        sha256 = sha256_of(content)
        size = len(content)
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        end = size
        if self.command == "GET":
            start = int(asked[1]) if asked and not self.world.ignores_range else 0
            end = min(size, int(asked[2]) + 1) if asked and asked[2] and not self.world.ignores_range else size
            self.world.ranges.append((path, int(asked[1]) if asked else 0))
            if self.world.statuses.get(path):
                status, headers = self.world.statuses[path].pop(0)
                self._refuse(status, **headers)
                return
        if start and self.world.wrong_range[path] > 0:
            self.world.wrong_range[path] -= 1
            start -= 1
        more = b""
        if self.command == "GET" and self.world.long[path] > 0:
            self.world.long[path] -= 1
            more = b"!"
        self.send_response(206 if start or end < size else 200)
        if start or end < size:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{git_sha1(content)}"')
        if is_large(path):
            self.send_header("X-Linked-Etag", f'"{sha256}"')
            self.send_header("X-Linked-Size", str(size))
            if self.world.xet:
                self.send_header("X-Xet-Hash", self.world.xet.add(content))
                route = f"{self.world.endpoint}/api/{self.world.kind}s/{self.world.repo}/xet-read-token/{COMMIT}"
                self.send_header("X-Xet-Refresh-Route", route)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start + len(more)))
        self.end_headers()
        if self.command == "GET":
            self._body(Sent(path, start), content[start:end] + more)

    def _body(self, sent: Sent, content: bytes) -> None:
        path = sent.path
        self.world.sent.append(sent)
        if self.world.corrupt[path] > 0:
            self.world.corrupt[path] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        if self.world.short[path] > 0:
            self.world.short[path] -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.world.cut.get(path):
            content = content[: self.world.cut[path].pop(0)]
            self.close_connection = True
        stalls = not self.close_connection and self.world.stall[path] > 0
        if stalls:
            self.world.stall[path] -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        self._send(sent, content)
        if stalls:
            self.world.ended.wait(60)

    def _send(self, sent: Sent, content: bytes) -> None:
        view = memoryview(content)
        piece = 1 << 16
        for offset in range(0, len(view), piece):
            try:
                self.wfile.write(view[offset : offset + piece])
            except OSError:  # whoever asked is gone
                self.close_connection = True
                return
            sent.size += len(view[offset : offset + piece])
            self.world.served[sent.path] += len(view[offset : offset + piece])
            if self.world.rate:
                self.world.ended.wait(piece / self.world.rate)


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
    if is_large(path):
        digest = sha256_of(content)
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return entry


def _info(world: Hub, revision: str) -> dict[str, object]:
    """Say of a repository what the Hub says to everybody, gated or not."""
    return {
        "id": world.repo,
        "sha": world.branches.get(revision, revision),
        "gated": "manual" if world.gated else False,
        "cardData": world.card,
        "siblings": [{"rfilename": path} for path in world.files | world.listed],
        **_shown_of_config(world.files.get("config.json", b"")),
        **_counted(world.files),
    }


def _shown_of_config(text: bytes) -> dict[str, object]:
    """Copy the few keys of config.json that the Hub shows."""
    try:
        config = json.loads(text)
    except ValueError:
        return {}
    shown = ("architectures", "auto_map", "model_type", "quantization_config")
    return {"config": {key: config[key] for key in shown if key in config}} if isinstance(config, dict) else {}


def _counted(files: Mapping[str, bytes]) -> dict[str, object]:
    """Count the numbers of each type in safetensors files, as the Hub does where it can read all their headers."""
    counts: Counter[str] = Counter()
    for path, content in files.items():
        if path.endswith(".safetensors"):
            try:
                header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
                for name, tensor in header.items():
                    if name != "__metadata__":
                        counts[tensor["dtype"]] += math.prod(tensor["shape"])
            except (ValueError, KeyError, TypeError, AttributeError):
                return {}
    return {"safetensors": {"parameters": counts, "total": counts.total()}} if counts else {}
