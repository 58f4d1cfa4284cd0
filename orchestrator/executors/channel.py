"""Turns a command's output into events and a log file, in bounded memory.

A command may write 10 MB without a line end, bytes that are not text, a progress bar with carriage returns,
or by mistake a secret. The orchestrator must handle all of them without a crash or a leak.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.errors import machine_faults
from orchestrator.events import from_line
from orchestrator.executors.log_file import LogFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from orchestrator.events import Observer

LONGEST_LINE = 64 * 1024
"""Bytes of one line that are shown. The log file has all bytes."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_REDACTED = b"[secret]"


def log_path(output: Path) -> Path:
    """Return the path of an attempt's log: beside its output folder, so that it is never published."""
    return output.parent / "log.txt"


class Lines:
    """Splits a stream of bytes into lines of text. A carriage return ends a line, too."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._dropped = 0
        self._after_return = False

    def take(self, chunk: bytes) -> Iterator[str]:
        """Yield the lines that this chunk completes."""
        if self._after_return:
            chunk = chunk.removeprefix(b"\n")
        self._after_return = chunk.endswith(b"\r") if chunk else self._after_return
        *whole, rest = _LINE_END.split(chunk)
        for part in whole:
            self._append(part)
            yield self._line()
        self._append(rest)

    def end(self) -> Iterator[str]:
        """Yield the text after the last line end."""
        if self._kept:
            yield self._line()

    def _append(self, part: bytes) -> None:
        space = LONGEST_LINE - len(self._kept)
        self._kept += part[:space]
        self._dropped += max(0, len(part) - space)

    def _line(self) -> str:
        text = self._kept.decode("utf-8", errors="replace")
        if self._dropped:
            text += f" … [{self._dropped} more bytes in the log]"
        self._kept.clear()
        self._dropped = 0
        return text


class Redactor:
    """Redacts secrets in a stream of bytes, even if a secret spans two chunks."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = sorted({secret.encode() for secret in secrets if secret}, key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, found))) if found else None
        self._beginnings = {secret[:length] for secret in found for length in range(1, len(secret))}
        self._longest = max((len(secret) for secret in found), default=1) - 1
        self._held = b""

    def take(self, chunk: bytes) -> bytes:
        """Return all bytes that cannot be part of a secret any more."""
        if self._pattern is None:
            return chunk
        clean = self._pattern.sub(_REDACTED, self._held + chunk)
        held = next(
            (length for length in range(min(self._longest, len(clean)), 0, -1) if clean[-length:] in self._beginnings),
            0,
        )
        self._held = clean[len(clean) - held :]
        return clean[: len(clean) - held]

    def end(self) -> bytes:
        """Return the remaining bytes."""
        held, self._held = self._held, b""
        return held


class Channel:
    """Writes a command's output to the attempt's log file, and its lines to an observer."""

    def __init__(self, output: Path, observer: Observer, secrets: Iterable[str] = ()) -> None:
        self._file = log_path(output)
        self._log = LogFile(self._file)
        self._observer = observer
        self._redactor = Redactor(secrets)
        self._lines = Lines()

    def take(self, chunk: bytes) -> None:
        """Pass on what was written."""
        self._pass(self._redactor.take(chunk))

    def close(self) -> None:
        """Pass on the last, unended line and close the log file."""
        try:
            self._pass(self._redactor.end())
            for line in self._lines.end():
                self._observer(from_line(line))
        finally:
            self._log.close()

    def _pass(self, clean: bytes) -> None:
        if not clean:
            return
        with machine_faults(f"writing {self._file}"):
            self._log.write(clean)
        for line in self._lines.take(clean):
            self._observer(from_line(line))
