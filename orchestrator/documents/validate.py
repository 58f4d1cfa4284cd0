"""Turns plain data into typed values, with errors that name file, line, key path and the likely right key."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.documents.yaml_text import Data, KeyPath, Position
from orchestrator.errors import BadInputError
from orchestrator.values import frozen

ModelType = TypeVar("ModelType", bound=BaseModel)

_Node = Mapping[str, Any]
"""A part of a JSON Schema."""

_EXPECTED_TYPE = re.compile("Input should be an? (?:valid )?")
"""Pydantic's messages about the expected type begin like this."""
_WRITTEN = re.compile(
    r"(?P<count>\d{1,3}(?:[,_ ]\d{3})+|\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<unit>[a-z]*)", re.IGNORECASE
)
"""A number as people write it: `8B`, `70.6 billion`, `8,030,000,000`."""
_UNITS: Mapping[str, int] = {
    "": 0,
    **dict.fromkeys(("k", "kb", "thousand"), 3),
    **dict.fromkeys(("m", "mb", "million"), 6),
    **dict.fromkeys(("b", "g", "gb", "billion"), 9),
    **dict.fromkeys(("t", "tb", "trillion"), 12),
}
"""The powers of ten that people write behind a number."""


def validate(
    kind: type[ModelType], data: Data, positions: Mapping[KeyPath, Position], error: type[BadInputError]
) -> ModelType:
    """Make a typed value of plain data.

    Strict: strings and numbers are not converted. All faults are reported together, one a line.

    Args:
        kind: The pydantic model to make.
        data: What was parsed.
        positions: The position of each key. A value from elsewhere may be missing.
        error: The class to raise.
    """
    try:
        return kind.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as failure:
        schema = _Schema(kind.model_json_schema())
        faults = [_Fault.of(fault, schema) for fault in failure.errors(include_url=False)]
        raise error("\n".join(_lines(faults, schema, positions))) from failure


@frozen
class _Fault:
    """One fault, with its position in the file."""

    path: KeyPath
    """The keys in the file, without pydantic's names of union members."""
    kind: str
    message: str
    found: object
    expected: str

    @classmethod
    def of(cls, fault: ErrorDetails, schema: _Schema) -> _Fault:
        expected = str(fault.get("ctx", {}).get("expected"))
        return cls(schema.path_in_file(fault["loc"]), fault["type"], str(fault["msg"]), fault["input"], expected)


def _lines(faults: Sequence[_Fault], schema: _Schema, positions: Mapping[KeyPath, Position]) -> Iterator[str]:
    """Write one line for each place. A deeper fault explains why no allowed type fits."""
    by_path: dict[KeyPath, list[_Fault]] = {}
    for fault in faults:
        by_path.setdefault(fault.path, []).append(fault)
    for path, at_path in by_path.items():
        expected = [_EXPECTED_TYPE.sub("", fault.message) for fault in at_path if _EXPECTED_TYPE.match(fault.message)]
        if len(expected) == len(at_path) > 1:  # the value is of none of a union's types
            if not any(other[: len(path)] == path for other in by_path if other != path):
                message = f"input should be a valid {', '.join(expected[:-1])} or {expected[-1]}"
                yield _line(replace(at_path[0], kind="union", message=message), schema, positions)
            continue
        yield from dict.fromkeys(_line(fault, schema, positions) for fault in at_path)


def _line(fault: _Fault, schema: _Schema, positions: Mapping[KeyPath, Position]) -> str:
    where = _where(fault.path, positions)
    dotted = ".".join(map(str, fault.path))
    prefix = f"{where}: " if where else ""
    match fault.kind:
        case "extra_forbidden":
            suggestion = _suggestion(str(fault.path[-1]), schema.keys_at(fault.path[:-1]))
            return f"{prefix}unknown key `{dotted}`{suggestion}"
        case "missing":
            return f"{prefix}`{dotted}` is missing"
        case _:
            return f"{prefix}`{dotted}`: {_expectation(fault)}"


def _expectation(fault: _Fault) -> str:
    found = json.dumps(fault.found, ensure_ascii=False)
    shown = found if len(found) <= 60 else found[:57] + "..."  # noqa: PLR2004 - what fits a line
    if fault.kind == "literal_error" and isinstance(fault.found, str):
        values = [value.strip(" '") for value in fault.expected.replace(" or ", ", ").split(",")]
        return f"expected one of {', '.join(values)}; found {shown}{_suggestion(fault.found, values)}"
    message = fault.message.removeprefix("Value error, ")
    problem = f"{message[0].lower()}{message[1:]}; found {shown}"
    if fault.kind in ("int_type", "float_type") and isinstance(fault.found, str):
        return f"{problem}{_as_number(fault.found, whole=fault.kind == 'int_type')}"
    return problem


def _as_number(text: str, *, whole: bool) -> str:
    """Suggest the right form of a number; nothing if the text is not a number."""
    written = _WRITTEN.fullmatch(text.strip())
    power = _UNITS.get(written["unit"].lower()) if written else None
    if written is None or power is None:
        return ""
    count = Decimal(re.sub("[,_ ]", "", written["count"])).scaleb(power)
    if count == count.to_integral_value():
        return f"; did you mean {int(count)}?"
    return "" if whole else f"; did you mean {count}?"


def _where(path: KeyPath, positions: Mapping[KeyPath, Position]) -> str:
    for length in range(len(path), -1, -1):
        position = positions.get(path[:length])
        if position:
            return str(position)
    return str(next(iter(positions.values())).file) if positions else ""


def _suggestion(found: str, known: list[str]) -> str:
    close = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known here: {', '.join(sorted(known))}" if known else ""


@frozen
class _Schema:
    """The JSON Schema of the model. It tells keys of the file from other parts of pydantic's locations."""

    root: _Node

    def path_in_file(self, location: Sequence[str | int]) -> KeyPath:
        """Leave out the names of union members from pydantic's locations."""
        path: list[str | int] = []
        nodes = [self.root]
        for part in location:
            members = [self._members(node) for node in nodes]
            if any(len(found) > 1 for found in members):
                nodes = [member for found in members for member in found]
            else:
                path.append(part)
                nodes = self._children(nodes, part)
        return tuple(path)

    def keys_at(self, path: KeyPath) -> list[str]:
        """List the known keys at a place of the file."""
        nodes = [self.root]
        for part in path:
            nodes = self._children(nodes, part)
        return [key for node in self._plain(nodes) for key in node.get("properties", {})]

    def _children(self, nodes: Sequence[_Node], part: str | int) -> list[_Node]:
        found = (_child(node, part) for node in self._plain(nodes))
        return [child for child in found if child is not None]

    def _plain(self, nodes: Sequence[_Node]) -> list[_Node]:
        """Resolve unions to their members."""
        plain: list[_Node] = []
        for node in nodes:
            members = self._members(node)
            plain += members if len(members) == 1 else self._plain(members)
        return plain

    def _members(self, node: _Node) -> list[_Node]:
        """Return the members of a union, without null."""
        if "$ref" in node:
            return self._members(self.root["$defs"][node["$ref"].rsplit("/", 1)[1]])
        for union in ("anyOf", "oneOf"):
            if union in node:
                members = [member for member in node[union] if member.get("type") != "null"]
                return self._members(members[0]) if len(members) == 1 else members
        return [node]


def _child(node: _Node, part: str | int) -> _Node | None:
    if isinstance(part, int):
        prefix = node.get("prefixItems", ())
        child = prefix[part] if part < len(prefix) else node.get("items")
    else:
        child = node.get("properties", {}).get(part) or node.get("additionalProperties")
    return child if isinstance(child, Mapping) else None
