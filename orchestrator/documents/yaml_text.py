"""Strict YAML 1.2: plain data and where each value stands, without aliases, tags, duplicate keys or excess.

A guard stands between the parser's events and what is built of them: a document of a hundred thousand brackets is
refused by its depth before anybody recurses into it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.parser import Parser

from orchestrator.errors import DocumentSyntaxError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24

Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]
KeyPath = tuple[str | int, ...]

_LARGEST = 1 << 63
"""Larger whole numbers mean nothing here, and printing a huge one takes long."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML lets through only as an escape: NUL would end a path early, half a surrogate pair cannot be written."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset({f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str")})


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
    try:
        node = _yaml(_guarded(file)).compose(source)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        message = f"{where}: {error.problem or error.context or 'not YAML'}"
        raise DocumentSyntaxError(message) from error
    except (YAMLError, ValueError) as error:
        message = f"{file}: not YAML: {error}"
        raise DocumentSyntaxError(message) from error
    if not isinstance(node, MappingNode):
        message = f"{file}: expected a mapping of keys at the top, found {_kind(node)}"
        raise DocumentSyntaxError(message)
    positions: dict[KeyPath, Position] = {}
    return Document(_Builder(file, positions).mapping(node, ()), positions)


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


def _yaml(parser: type[Parser] = Parser) -> YAML:
    yaml = YAML(typ="safe", pure=True)  # the C parser is YAML 1.1 and overruns its stack on deep nesting
    yaml.version = (1, 2)
    yaml.Parser = parser
    return yaml


def _guarded(file: Path) -> type[Parser]:
    """Make the parser of a file, which lets through the events alone that recipes are made of."""
    guard = _Guard(file)

    class Guarded(Parser):
        def get_event(self) -> Event:
            event: Event = super().get_event()
            guard.check(event)
            return event

    return Guarded


@dataclass
class _Guard:
    file: Path
    depth: int = 0
    documents: int = 0

    def check(self, event: Event) -> None:
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
            raise _error(self.file, event, "anchors and aliases are not allowed; write the value out, or use `extends`")
        if isinstance(event, CollectionStartEvent):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise _error(self.file, event, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, CollectionEndEvent):
            self.depth -= 1
        if isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise _error(self.file, event, "a second document; one file holds one")
            if event.version:
                raise _error(self.file, event, "no %YAML line is needed: these files are YAML 1.2")
        tag = getattr(event, "tag", None)
        if tag:
            raise _error(self.file, event, f"the tag {tag} is not allowed")


def _error(file: Path, event: object, problem: str) -> DocumentSyntaxError:
    mark = getattr(event, "start_mark", None)
    where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
    return DocumentSyntaxError(f"{where}: {problem}")


def _kind(node: Node | None) -> str:
    match node:
        case None:
            return "nothing"
        case SequenceNode():
            return "a list"
        case _:
            return "a single value"


@dataclass
class _Builder:
    file: Path
    positions: dict[KeyPath, Position]
    yaml: YAML = field(default_factory=_yaml)
    """Builds the scalars."""

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Data]:
        result: dict[str, Data] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in result:
                raise _error(self.file, key_node, f"the key `{key}` stands here a second time")
            self._mark((*path, key), key_node)
            result[key] = self._value(value_node, (*path, key))
        return result

    def _key(self, node: Node) -> str:
        if not isinstance(node, ScalarNode) or node.tag != f"{_TAG}str":
            raise _error(self.file, node, "a key must be plain text")
        return self._text(node)

    def _value(self, node: Node, path: KeyPath) -> Data:
        match node:
            case MappingNode():
                return self.mapping(node, path)
            case SequenceNode():
                for index, item in enumerate(node.value):
                    self._mark((*path, index), item)
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            case ScalarNode():
                return self._scalar(node)
            case _:
                raise _error(self.file, node, "not a value")

    def _scalar(self, node: ScalarNode) -> Data:
        if node.tag not in _SCALARS:
            return self._text(node)  # a date is text here: recipes have no dates
        try:
            value: Data = self.yaml.constructor.construct_object(node)
        except ValueError as error:
            raise _error(self.file, node, f"cannot read {node.value[:40]!r} as a number") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise _error(self.file, node, f"{node.value} is not a finite number")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise _error(self.file, node, f"{node.value[:40]} is too large a number")
        return self._text(node) if isinstance(value, str) else value

    def _text(self, node: ScalarNode) -> str:
        text = str(node.value)
        found = _UNPRINTABLE.search(text)
        if found:
            raise _error(self.file, node, f"the character U+{ord(found.group()):04X} is not allowed in a text")
        return text

    def _mark(self, path: KeyPath, node: Node) -> None:
        self.positions[path] = Position(self.file, node.start_mark.line + 1, node.start_mark.column + 1)
