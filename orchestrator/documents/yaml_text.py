"""Parses strict YAML 1.2 into plain data with positions, without aliases, tags, duplicate keys or excess.

libyaml splits the text into events. Their meaning is decided here, so that YAML 1.1's `no` for false and
silent duplicate keys cannot occur, and a document of a hundred thousand brackets is refused by its depth
without recursion. The depth limit is checked here as well, in addition to any limit of the parser.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import yaml
from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from orchestrator.errors import DocumentSyntaxError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24

Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]
KeyPath = tuple[str | int, ...]

_LARGEST = 1 << 63
"""Larger whole numbers are useless here, and printing a huge one takes long."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML lets through only as an escape: NUL would end a path early, half a surrogate pair cannot be written."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBERS = "+-.0123456789"
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
"""What a plain scalar is: the core schema of YAML 1.2.2, section 10.3.2."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml, which takes a thirtieth of the time; the same events from Python where PyYAML was built without it."""


@dataclass(frozen=True)
class Position:
    """A place in a file, counted from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        """Write it as compilers do; a value that stands in no file has no line."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else str(self.file)


@dataclass(frozen=True)
class Document:
    """One parsed file."""

    data: dict[str, Data]
    positions: Mapping[KeyPath, Position] = field(repr=False)
    """Where the key of each path stands (for list items, the item)."""


def parse(text: bytes, file: Path) -> Document:
    """Parse one YAML document whose top is a mapping.

    Args:
        text: The file's bytes, UTF-8.
        file: Its name, for messages.

    Raises:
        DocumentSyntaxError: With file, line and column, for anything that recipes do not use.
    """
    if len(text) > MAX_BYTES:
        message = f"{file}: {len(text)} bytes; at most {MAX_BYTES} are read"
        raise DocumentSyntaxError(message)
    try:
        source = text.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"{file}: not UTF-8 at byte {error.start}"
        raise DocumentSyntaxError(message) from error
    reader = _Reader.of(source, file)
    try:
        return Document(reader.document(), reader.positions)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark:
            _check_before(source[: mark.index], file)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        message = f"{where}: {error.problem or error.context or 'not YAML'}"
        raise DocumentSyntaxError(message) from error
    except YAMLError as error:
        message = f"{file}: not YAML: {error}"
        raise DocumentSyntaxError(message) from error


def _check_before(source: str, file: Path) -> None:
    """Refuse what recipes do not use in the part of a text that stands before a parser's error.

    A parser looks ahead for the end of a key, 1024 characters at most. So it may refuse the depth of brackets, by a
    limit of its own, before it has reported the first of them.

    Raises:
        DocumentSyntaxError: With the place of what is refused.
    """
    reader = _Reader.of(source, file)
    try:
        reader.document()
    except (DocumentSyntaxError, YAMLError):
        if reader.refused:  # else the text only ends too early
            raise


def scalar(text: str) -> Data:
    """Read one value as it would be read in a file: `8` is a number, `true` a boolean, `[a, b]` a list.

    Raises:
        DocumentSyntaxError: Where it is not one value.
    """
    data = parse(b"value: " + text.encode("utf-8", "surrogateescape"), Path("--set")).data
    if len(data) > 1:
        message = "more than one value"
        raise DocumentSyntaxError(message)
    return data["value"]


@dataclass
class _Reader:
    """Makes data of a document's events; recurses no deeper than a document may be nested."""

    file: Path
    positions: dict[KeyPath, Position]
    events: Iterator[Event]
    depth: int = field(default=0, init=False)
    refused: bool = field(default=False, init=False)
    """Whether something stands in the text that recipes do not use."""

    @classmethod
    def of(cls, source: str, file: Path) -> Self:
        """Start to read a text."""
        return cls(file, {}, yaml.parse(source, Loader=_LOADER))

    def document(self) -> dict[str, Data]:
        """Read the one document, to the end of the text."""
        top: dict[str, Data] | None = None
        for event in self.events:
            match event:
                case DocumentStartEvent() if top is not None:
                    raise self._error(event, "a second document; one file holds one")
                case DocumentStartEvent() if event.version:
                    raise self._error(event, "no %YAML line is needed: these files are YAML 1.2")
                case MappingStartEvent():
                    top = self._mapping(self._checked(event), ())
                case NodeEvent():
                    kind = "a list" if isinstance(self._checked(event), SequenceStartEvent) else "a single value"
                    message = f"{self.file}: expected a mapping of keys at the top, found {kind}"
                    raise DocumentSyntaxError(message)
                case _:  # the start or end of the stream or the document
                    pass
        if top is None:
            message = f"{self.file}: expected a mapping of keys at the top, found nothing"
            raise DocumentSyntaxError(message)
        return top

    def _mapping(self, start: Event, path: KeyPath) -> dict[str, Data]:
        self._enter(start)
        result: dict[str, Data] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key = self._key(event)
            if key in result:
                raise self._error(event, f"the key `{key}` stands here a second time")
            result[key] = self._value((*path, key), event)
        self.depth -= 1
        return result

    def _sequence(self, start: Event, path: KeyPath) -> list[Data]:
        self._enter(start)
        result: list[Data] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            result.append(self._of(event, self._mark((*path, len(result)), event)))
        self.depth -= 1
        return result

    def _value(self, path: KeyPath, key: Event) -> Data:
        return self._of(self._next(), self._mark(path, key))

    def _of(self, event: Event, path: KeyPath) -> Data:
        match event:
            case MappingStartEvent():
                return self._mapping(event, path)
            case SequenceStartEvent():
                return self._sequence(event, path)
            case ScalarEvent():
                return self._scalar(event)
            case _:
                raise self._error(event, "not a value")

    def _key(self, event: Event) -> str:
        key = self._scalar(event) if isinstance(event, ScalarEvent) else None
        if not isinstance(key, str):
            raise self._error(event, "a key must be plain text")
        if key == "<<":
            raise self._error(event, "merge keys are not allowed; use `extends`")
        return key

    def _scalar(self, event: ScalarEvent) -> Data:
        text = event.value
        if not event.implicit[0]:  # quoted, or a block
            return self._text(event, text)
        if text in _NULL:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        return self._number(event, text) if text[0] in _NUMBERS else self._text(event, text)

    def _number(self, event: ScalarEvent, text: str) -> Data:
        value: int | float
        try:
            if _DECIMAL.fullmatch(text):
                value = int(text)
            elif _BASED.fullmatch(text):
                value = int(text, 0)
            elif _FLOAT.fullmatch(text):
                value = float(text)
            elif _NOT_FINITE.fullmatch(text):
                value = math.inf
            else:
                return self._text(event, text)  # a version, a date: recipes have no dates
        except ValueError as error:  # more digits than Python reads
            raise self._error(event, f"cannot read {text[:40]!r} as a number") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error(event, f"{text} is not a finite number")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise self._error(event, f"{text[:40]} is too large a number")
        return value

    def _text(self, event: Event, text: str) -> str:
        found = _UNPRINTABLE.search(text)
        if found:
            raise self._error(event, f"the character U+{ord(found.group()):04X} is not allowed in a text")
        return text

    def _next(self) -> Event:
        return self._checked(next(self.events))

    def _checked(self, event: Event) -> Event:
        """Refuse what recipes do not use, before anything is made of it."""
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
            raise self._error(event, "anchors and aliases are not allowed; write the value out, or use `extends`")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag:
            raise self._error(event, f"the tag {event.tag} is not allowed")
        return event

    def _enter(self, start: Event) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(start, f"nested more than {MAX_DEPTH} levels deep")

    def _mark(self, path: KeyPath, event: Event) -> KeyPath:
        self.positions[path] = _position(self.file, event)
        return path

    def _error(self, event: Event, problem: str) -> DocumentSyntaxError:
        self.refused = True
        return DocumentSyntaxError(f"{_position(self.file, event)}: {problem}")


def _position(file: Path, event: Event) -> Position:
    mark = event.start_mark
    assert mark is not None  # noqa: S101 - every event of a parser has one
    return Position(file, mark.line + 1, mark.column + 1)
