"""Follows a container's log in a thread, so that the one who reads can look up when nothing comes.

The end of the stream is not the end of the container: it also ends, without an error, when the engine does.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from docker.errors import DockerException
from requests import RequestException
from urllib3.exceptions import HTTPError

from orchestrator.errors import MachineError

if TYPE_CHECKING:
    from types import TracebackType

    from docker.types.daemon import CancellableStream

    from orchestrator.executors.docker_engine import Connect

_AHEAD = 64
"""Pieces, of 16 KB at most, that are read before anybody takes them."""

_JOIN = 5.0
"""Seconds."""


class LogStream:
    """The log of one container from its beginning, as it is written.

    Args:
        connect: Makes the connection, which the stream keeps for itself.
        container: The container's id.
        skip: Bytes at the beginning that are already known.
    """

    def __init__(self, connect: Connect, container: str, skip: int = 0) -> None:
        self._connect = connect
        self._container = container
        self._skip = skip
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._closing = threading.Event()
        self._stream: CancellableStream[bytes] | None = None
        self._thread = threading.Thread(target=self._read, name=f"log of {container[:12]}", daemon=True)

    def __enter__(self) -> Self:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop reading and give the connection back."""
        self._closing.set()
        if self._thread.is_alive() and self._stream is not None:
            with suppress(AttributeError, NameError, OSError):  # the SDK's close, when the stream ends at that moment
                self._stream.close()
        self._thread.join(_JOIN)

    def take(self, timeout: float) -> bytes | None:
        """Wait for the next piece.

        Args:
            timeout: Seconds.

        Returns:
            The piece; empty where nothing came in time; None at the end of the stream.
        """
        try:
            return self._pieces.get(timeout=timeout)
        except queue.Empty:
            return b""

    def _read(self) -> None:
        try:
            client = self._connect()
        except MachineError:
            self._put(None)
            return
        try:
            self._stream = client.api.logs(self._container, stream=True, follow=True)
            for piece in self._stream:
                unknown = self._unknown(piece)
                if unknown and not self._put(unknown):
                    break
        except (DockerException, RequestException, HTTPError, OSError, ValueError, AttributeError):
            pass  # the reader asks the engine what happened to the container
        finally:
            self._put(None)
            client.close()

    def _unknown(self, piece: bytes) -> bytes:
        rest = piece[self._skip :]
        self._skip -= len(piece) - len(rest)
        return rest

    def _put(self, piece: bytes | None) -> bool:
        """Hand a piece over; False where nobody will take it any more."""
        while not self._closing.is_set():
            try:
                self._pieces.put(piece, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False
