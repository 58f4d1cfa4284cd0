"""Parses strict YAML 1.2 into plain data with positions, without aliases, tags, duplicate keys or excess.

The loader is PyYAML's, on libyaml if it is there. Its resolvers are replaced, so that `no` is not false and `022` not
octal. Its composer is extended by checks, so that anything that recipes do not use is refused before it is built. A
document of a hundred thousand brackets is refused by its depth without deep recursion.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import AliasEvent, CollectionStartEvent, Event, ScalarEvent, StreamEndEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.resolver import BaseResolver

from orchestrator.errors import DocumentSyntaxError
from orchestrator.values import frozen

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24

Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]
KeyPath = tuple[str | int, ...]

_LARGEST = 1 << 63
"""Larger whole numbers are useless here, and printing a huge one takes long."""

_UNPRINTABLE = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
"""YAML allows most of these only as an escape. NUL would end a path early, half a surrogate pair cannot be written, and
U+202A to U+202E and U+2066 to U+2069 change the order in which a terminal shows the rest of a line."""

_STRING = "tag:yaml.org,2002:str"
_CORE_SCHEMA = (
    ("null", "~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "+-0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "+-.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "+-."),
)
"""Tag, pattern and first characters of plain scalars: the core schema of YAML 1.2.2, section 10.3.2."""


@frozen
class Position:
    """A place in a file, counted from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        """Format it as compilers do. A value from outside a file has no line."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else str(self.file)


@frozen
class Document:
    """One parsed file."""

    data: dict[str, Data]
    positions: Mapping[KeyPath, Position] = field(repr=False)
    """The position of the key of each path; for a list item, of the item."""


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
        return _read(source, file)
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


def _read(source: str, file: Path) -> Document:
    loader = _LOADER(source, file)
    top = loader.single_node()
    if isinstance(top, MappingNode):
        return Document(loader.construct_document(top), loader.positions)
    found = {SequenceNode: "a list", ScalarNode: "a single value", type(None): "nothing"}[type(top)]
    message = f"{file}: expected a mapping of keys at the top, found {found}"
    raise DocumentSyntaxError(message)


def _check_before(source: str, file: Path) -> None:
    """Refuse what recipes do not use in the part of a text before a parser's error.

    A parser looks ahead for the end of a key, 1024 characters at most. So it may refuse the depth of brackets, by a
    limit of its own, before it has reported the first of them.

    Raises:
        DocumentSyntaxError: With the position of what is refused.
    """
    with suppress(YAMLError):  # the text ends too early
        _LOADER(source, file).single_node()


def scalar(text: str) -> Data:
    """Read one value as it would be read in a file: `8` is a number, `true` a boolean, `[a, b]` a list.

    Raises:
        DocumentSyntaxError: It is not one value.
    """
    data = parse(b"value: " + text.encode("utf-8", "surrogateescape"), Path("--set")).data
    if len(data) > 1:
        message = "more than one value"
        raise DocumentSyntaxError(message)
    return data["value"]


class _StrictLoader(Composer, SafeConstructor, BaseResolver):
    """Composes one document of YAML 1.2 and refuses everything that recipes do not use."""

    base: ClassVar[Any]
    """The loader of PyYAML that splits the text into events, with the three methods below."""
    get_event: Callable[[], Any]
    peek_event: Callable[[], Any]
    check_event: Callable[[type[Event]], bool]

    def __init__(self, source: str, file: Path) -> None:
        self.base.__init__(self, source)
        self.file = file
        self.path: list[str | int] = []
        self.positions: dict[KeyPath, Position] = {}

    def single_node(self) -> Node | None:
        """Compose the one document, to the end of the text; None if there is none."""
        self.get_event()
        top = None
        while not self.check_event(StreamEndEvent):
            start = self.peek_event()
            if top is not None:
                raise self._error(start, "a second document; one file holds one")
            if start.version:
                raise self._error(start, "no %YAML line is needed: these files are YAML 1.2")
            top = self.compose_document()
        return top

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:  # noqa: ANN401 - a key's node, or a number
        """Compose a key if a mapping has no index yet, else a value."""
        event = self.peek_event()
        if isinstance(event, AliasEvent) or event.anchor:
            raise self._error(event, "anchors and aliases are not allowed; write the value out, or use `extends`")
        if event.tag:
            raise self._error(event, f"the tag {event.tag} is not allowed")
        if isinstance(parent, MappingNode) and index is None:
            return self._key(event)
        if parent is not None:
            self.path.append(index.value if isinstance(index, ScalarNode) else index)
            self.positions.setdefault(tuple(self.path), _position(self.file, event))
        if isinstance(event, CollectionStartEvent) and len(self.path) == MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        del self.path[-1:]
        return node

    def _key(self, event: Event) -> Node:
        if not isinstance(event, ScalarEvent) or self._tag(event) != _STRING:
            raise self._error(event, "a key must be plain text")
        if event.value == "<<":
            raise self._error(event, "merge keys are not allowed; use `extends`")
        path = (*self.path, event.value)
        if path in self.positions:
            raise self._error(event, f"the key `{event.value}` occurs a second time")
        self.positions[path] = _position(self.file, event)
        return self.compose_scalar_node(None)

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:  # noqa: ANN401 - as in the library, and always None
        """Compose a scalar. Its value is constructed at once, so that the first fault of a text is reported."""
        node = super().compose_scalar_node(anchor)
        self.construct_object(node)
        return node

    def construct_text(self, node: ScalarNode) -> str:
        """Return a scalar's text without unprintable characters."""
        found = None if node.value.isprintable() else re.search(_UNPRINTABLE, node.value)
        if found:
            raise self._error(node, f"the character U+{ord(found.group()):04X} is not allowed in a text")
        return str(node.value)

    def construct_whole_number(self, node: ScalarNode) -> int:
        """Return a whole number that is not too large."""
        text = node.value
        try:
            value = int(text, 0 if text[:2] in ("0o", "0x") else 10)
        except ValueError as error:  # more digits than Python reads
            raise self._error(node, f"cannot read {text[:40]!r} as a number") from error
        if abs(value) >= _LARGEST:
            raise self._error(node, f"{text[:40]} is too large a number")
        return value

    def construct_fraction(self, node: ScalarNode) -> float:
        """Return a finite number."""
        value = math.inf if node.value[-1].isalpha() else float(node.value)
        if not math.isfinite(value):
            raise self._error(node, f"{node.value} is not a finite number")
        return value

    def _tag(self, event: ScalarEvent) -> str:
        return str(self.resolve(ScalarNode, event.value, event.implicit))  # type: ignore[no-untyped-call]

    def _error(self, found: Event | Node, problem: str) -> DocumentSyntaxError:
        return DocumentSyntaxError(f"{_position(self.file, found)}: {problem}")


_StrictLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _CORE_SCHEMA:
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_StrictLoader.yaml_constructors = SafeConstructor.yaml_constructors | {
    _STRING: _StrictLoader.construct_text,
    "tag:yaml.org,2002:int": _StrictLoader.construct_whole_number,
    "tag:yaml.org,2002:float": _StrictLoader.construct_fraction,
}


def loader_on(base: type) -> Any:  # noqa: ANN401 - a class of two bases, of which one depends on how PyYAML was built
    """Make the strict loader on one of PyYAML's loaders."""
    return type("Loader", (_StrictLoader, base), {"base": base})


_LOADER = loader_on(getattr(yaml, "CSafeLoader", yaml.SafeLoader))
"""On libyaml, which is much faster; on Python's own parser if PyYAML was built without it."""


def _position(file: Path, found: Event | Node) -> Position:
    mark = found.start_mark
    assert mark is not None  # noqa: S101 - every event and node of a parser has one
    return Position(file, mark.line + 1, mark.column + 1)
