"""Xet storage on this machine, beside the Hub of `tests/support/hub.py`: what hf_xet's own client asks for a download.

Written from the protocol's public description (huggingface/xet-core, spec/): a file is a list of terms, each a range of
chunks in an archive ("xorb"); an archive is fetched by byte ranges, a chunk is 8 bytes of header and its data. Chunks
are of one size here and not compressed; nothing is shared between files.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK = 64 << 10
PER_ARCHIVE = 64
"""Chunks, so 4 MiB: real ones have up to 64 MiB."""
_HEADER = 8
TOKEN = "xet_canary_0123456789"


@dataclass
class XetStorage:
    """What the storage holds and how it fails."""

    files: dict[str, bytes] = field(default_factory=dict)
    """By the hash under which the storage knows them."""
    rate: float = 0.0
    """Bytes a second of each connection; 0: no limit."""
    status: int = 0
    """Answered to everything, where set."""
    breaks_after: int | None = None
    """Bytes after which archives are not served any more."""
    corrupt: Counter[str] = field(default_factory=Counter)
    """How many more times a file arrives with one byte changed."""
    served: Counter[str] = field(default_factory=Counter)
    """How many bytes of each file's archives were sent."""
    starts: list[tuple[str, int]] = field(default_factory=list)
    """Where each request for a file wanted it to begin."""
    tokens: set[str] = field(default_factory=set)
    endpoint: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def add(self, content: bytes) -> str:
        """Take a file in; returns its hash."""
        name = hashlib.sha256(b"xet" + content).hexdigest()
        self.files[name] = content
        return name


class QuietServer(ThreadingHTTPServer):
    """Says nothing of connections that whoever asked has broken."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet."""


@contextmanager
def serve_xet(storage: XetStorage) -> Iterator[XetStorage]:
    """Answer on a port of this machine until the block ends."""

    class Handler(_Handler):
        world = storage

    server = QuietServer(("127.0.0.1", 0), Handler)
    storage.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield storage
    finally:
        storage.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    world: XetStorage
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), int(asked[2])) if asked else (0, 1 << 62)
        plan = re.fullmatch(r"/v1/reconstructions/(\w{64})", self.path)
        archive = re.fullmatch(r"/archives/(\w{64})/(\d+)", self.path)
        if self.world.status:
            self._answer(self.world.status, b"")
        elif plan and plan[1] in self.world.files:
            self.world.tokens.add(self.headers.get("Authorization", ""))
            self.world.starts.append((plan[1], first))
            self._plan(plan[1], first, min(last, len(self.world.files[plan[1]]) - 1))
        elif archive:
            self._archive(archive[1], int(archive[2]), first, last)
        else:
            self._answer(404, b"")

    def _plan(self, name: str, first: int, last: int) -> None:
        begin, end = first // CHUNK, last // CHUNK
        terms, places = [], {}
        for number in range(begin // PER_ARCHIVE, end // PER_ARCHIVE + 1):
            offset = number * PER_ARCHIVE
            chunks = {"start": max(begin - offset, 0), "end": min(end + 1 - offset, PER_ARCHIVE)}
            known = hashlib.sha256(f"{name}{number}".encode()).hexdigest()
            size = (
                min(len(self.world.files[name]), (offset + chunks["end"]) * CHUNK) - (offset + chunks["start"]) * CHUNK
            )
            terms.append({"hash": known, "unpacked_length": size, "range": chunks})
            from_ = chunks["start"] * (CHUNK + _HEADER)
            to = from_ + size + (chunks["end"] - chunks["start"]) * _HEADER - 1
            url = f"{self.world.endpoint}/archives/{name}/{number}"
            places[known] = [{"range": chunks, "url": url, "url_range": {"start": from_, "end": to}}]
        document = {"offset_into_first_range": first - begin * CHUNK, "terms": terms, "fetch_info": places}
        self._answer(200, json.dumps(document).encode())

    def _archive(self, name: str, number: int, first: int, last: int) -> None:
        whole = self.world.files[name]
        if self.world.corrupt[name] > 0:
            self.world.corrupt[name] -= 1
            whole = bytes([whole[0] ^ 1]) + whole[1:]
        content = whole[number * PER_ARCHIVE * CHUNK : (number + 1) * PER_ARCHIVE * CHUNK]
        packed = b"".join(_chunk(content[at : at + CHUNK]) for at in range(0, len(content), CHUNK))
        limit = self.world.breaks_after
        if limit is not None and self.world.served[name] >= limit:
            self._answer(500, b"")
            return
        self._answer(206, packed[first : last + 1], name)

    def _answer(self, status: int, body: bytes, name: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # whoever asked is gone
            for at in range(0, len(body), CHUNK):
                self.wfile.write(body[at : at + CHUNK])
                self.world.served[name] += len(body[at : at + CHUNK])
                if self.world.rate:
                    self.world.ended.wait(CHUNK / self.world.rate)
            return
        self.close_connection = True


def _chunk(data: bytes) -> bytes:
    """Version 0, packed size, compression 0 (none), size."""
    size = len(data).to_bytes(3, "little")
    return b"\0" + size + b"\0" + size + data


def connection(storage: XetStorage) -> dict[str, str | int]:
    """Say, as the Hub does, where the storage is."""
    return {"casUrl": storage.endpoint, "accessToken": TOKEN, "exp": int(time.time()) + 3600}


def connection_headers(storage: XetStorage) -> dict[str, str]:
    """Say so in headers, which the Hub's own client reads."""
    return {
        "X-Xet-Cas-Url": storage.endpoint,
        "X-Xet-Access-Token": TOKEN,
        "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
    }
