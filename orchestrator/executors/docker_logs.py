"""Follows a container's log in a thread, so that the reader can do other checks while nothing comes.

The end of the stream is not the end of the container. It also ends, without an error, if Docker stops, or if
a command writes so fast that Docker removes unread lines. To continue, the reader uses Docker's own
times of the last messages. A number of bytes would not work, because Docker keeps
only the newest part of a log.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from docker.errors import DockerException
from requests import RequestException
from urllib3.exceptions import HTTPError

from orchestrator.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from docker.types.daemon import CancellableStream

    from orchestrator.executors.docker_client import Connect

_AHEAD = 1 << 20
"""Bytes that are read ahead."""

_JOIN = 5.0
"""Seconds."""

_REMEMBERED = 1000
"""Number of message times to find the position again. Several, because two writers' messages may be out of order."""

_MESSAGE = re.compile(rb"(\d{4}-\d\d-\d\dT\S+) (.*)", re.DOTALL)


class Message(NamedTuple):
    """One piece of a container's output: a line, or 16 KB of one."""

    time: bytes
    """Docker's time, of equal length in all messages, so that they sort as strings; empty if there is none."""
    text: bytes


class LogPosition:
    """A position in a log."""

    def __init__(self) -> None:
        self._times: OrderedDict[bytes, int] = OrderedDict()

    def record(self, message: Message) -> None:
        """Record a message as read."""
        if message.time:
            self._times[message.time] = self._times.get(message.time, 0) + 1
            if len(self._times) > _REMEMBERED:
                self._times.popitem(last=False)

    @property
    def second(self) -> int | None:
        """The second, since the epoch, from which messages may be new; None if none was read."""
        if not self._times:
            return None
        return int(datetime.fromisoformat(min(self._times).decode("ascii")).timestamp())

    def unread(self, messages: Iterator[Message]) -> Iterator[Message]:
        """Skip messages that were read. If none of them is found, report that some are missing."""
        seen = dict(self._times)
        oldest = min(seen, default=b"")
        met = not seen
        for message in messages:
            if message.time and message.time < oldest:
                continue
            if seen.get(message.time):
                seen[message.time] -= 1
                met = True
                continue
            if not met:
                met = True
                yield Message(b"", GAP)
            yield message


GAP = b"\n[lines are missing here: they came faster than they could be read, and Docker keeps only the newest]\n"
"""The line that reports a missing part."""


class LogStream:
    """The log of one container, while it is written.

    Args:
        connect: Makes the connection, which the stream keeps.
        container: The container's id.
        position: The position. It moves with the messages that are taken.
        newest: Yield at most this many older messages.
    """

    def __init__(
        self, connect: Connect, container: str, position: LogPosition | None = None, newest: int | None = None
    ) -> None:
        self._connect = connect
        self._container = container
        self._position = position or LogPosition()
        self._newest = newest
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._size = 0
        """Bytes of those messages."""
        self._ended = False
        self._closing = False
        self._stream: CancellableStream[bytes] | None = None
        self._thread = threading.Thread(target=self._read, name=f"log of {container[:12]}", daemon=True)

    def __enter__(self) -> Self:
        """Start to read."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop reading and close the connection."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive() and self._stream is not None:
            with suppress(AttributeError, NameError, OSError):  # the SDK's close, when the stream ends at that moment
                self._stream.close()
        self._thread.join(_JOIN)

    def take(self, timeout: float) -> bytes | None:
        """Wait for more.

        Args:
            timeout: Seconds.

        Returns:
            All new messages; empty if nothing came in time; None at the end of the stream.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._ended, timeout)
            messages, self._messages, self._size = self._messages, [], 0
            self._changed.notify_all()
            if not messages:
                return None if self._ended else b""
        for message in messages:
            self._position.record(message)
        return b"".join(message.text for message in messages)

    def _read(self) -> None:
        try:
            client = self._connect()
        except MachineError:
            self._end()
            return
        try:
            self._stream = client.api.logs(self._container, **self._log_options())
            if not self._closing:
                self._copy(self._stream)
        except (DockerException, RequestException, HTTPError, OSError, ValueError, AttributeError):
            pass  # the reader asks Docker what happened to the container
        finally:
            self._end()
            if self._stream is not None:
                # Neither the SDK's `close` nor that of its client closes a response that is not read to its end.
                self._stream._response.close()  # type: ignore[attr-defined] # noqa: SLF001
            client.close()

    def _copy(self, stream: Iterable[bytes]) -> None:
        for message in self._position.unread(map(_message, stream)):
            if not self._put(message):
                break

    def _log_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"stream": True, "follow": True, "timestamps": True}
        if self._newest is not None:
            options["tail"] = self._newest
        if self._position.second:
            options["since"] = self._position.second
        return options

    def _put(self, message: Message) -> bool:
        """Queue a message; False if no reader is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._size < _AHEAD)
            self._messages.append(message)
            self._size += len(message.text)
            self._changed.notify_all()
            return not self._closing

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _message(line: bytes) -> Message:
    found = _MESSAGE.fullmatch(line)
    return Message(found[1], found[2]) if found else Message(b"", line)
