"""Writes log lines: text for people, JSON for programs. Prompts, keys and headers are logged only on request."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TextIO, TypeAlias

Field: TypeAlias = str | int | float | bool | tuple[str, ...] | None

_LEVELS = {"TRACE": 0, "DEBUG": 1, "INFO": 2, "DEFAULT": 2, "WARNING": 3, "ERROR": 4, "CRITICAL": 5}


class Log:
    """Writes one line per event.

    Args:
        level: The least important level that is written, by NIM's names.
        as_json: One JSON object a line.
        stream: The destination; standard output if none.
    """

    def __init__(self, level: str = "INFO", *, as_json: bool = False, stream: TextIO | None = None) -> None:
        self._minimum = _LEVELS[level]
        self._as_json = as_json
        self._stream = stream or sys.stdout

    def debug(self, message: str, **fields: Field) -> None:
        """Write a detail for debugging."""
        self._write("DEBUG", message, fields)

    def info(self, message: str, **fields: Field) -> None:
        """Write a normal event."""
        self._write("INFO", message, fields)

    def warning(self, message: str, **fields: Field) -> None:
        """Write something that an operator should look at."""
        self._write("WARNING", message, fields)

    def error(self, message: str, **fields: Field) -> None:
        """Write a failure."""
        self._write("ERROR", message, fields)

    def runtime(self, line: str, source: str) -> None:
        """Forward a line of the runtime at any level, because it has its own levels."""
        if self._as_json:
            self._write_line(json.dumps({"time": _now(), "source": source, "message": line}, ensure_ascii=False))
        else:
            self._write_line(line)

    def _write(self, level: str, message: str, fields: dict[str, Field]) -> None:
        if _LEVELS[level] < self._minimum:
            return
        fields = {name: value for name, value in fields.items() if value is not None}
        if self._as_json:
            document = {"time": _now(), "level": level, "source": "gateway", "message": message, **fields}
            self._write_line(json.dumps(document, ensure_ascii=False))
        else:
            words = "".join(f" {name}={_word(value)}" for name, value in fields.items())
            self._write_line(f"{_now()} {level} gateway: {_printable(message)}{words}")

    def _write_line(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _word(value: Field) -> str:
    """Write a value as one word of one line, even if a client chose it."""
    text = " | ".join(value) if isinstance(value, tuple) else str(value)
    return text if text.isascii() and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
