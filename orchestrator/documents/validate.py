"""Plain data to typed values, with errors that name file, line, key path and the likely right key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.documents.yaml_text import Data, KeyPath, Position
from orchestrator.errors import BadInputError

ModelType = TypeVar("ModelType", bound=BaseModel)


def validate(
    kind: type[ModelType], data: Data, positions: Mapping[KeyPath, Position], error: type[BadInputError]
) -> ModelType:
    """Make a typed value of plain data.

    Strict: no text becomes a number and no number becomes text. All faults are reported at once, one a line.

    Args:
        kind: The pydantic model to make.
        data: What was parsed.
        positions: Where each key stands; a value from elsewhere may be absent.
        error: The class to raise.
    """
    try:
        return kind.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as failure:
        lines = [_line(fault, data, positions, kind) for fault in failure.errors(include_url=False)]
        raise error("\n".join(dict.fromkeys(lines))) from failure


def _line(fault: Any, data: Data, positions: Mapping[KeyPath, Position], kind: type[BaseModel]) -> str:  # noqa: ANN401 - pydantic's dict
    path, missing = _path_in(data, fault["loc"])
    where = _where(path, positions)
    dotted = ".".join(str(part) for part in (*path, *missing))
    prefix = f"{where}: " if where else ""
    match fault["type"]:
        case "extra_forbidden":
            return f"{prefix}unknown key `{dotted}`{_suggestion(str(path[-1]), _keys_at(kind, fault['loc'][:-1]))}"
        case "missing":
            return f"{prefix}`{dotted}` is missing"
        case _:
            return f"{prefix}`{dotted}`: {_expectation(fault)}"


def _expectation(fault: Any) -> str:  # noqa: ANN401 - pydantic's dict
    found = json.dumps(fault["input"], ensure_ascii=False)
    shown = found if len(found) <= 60 else found[:57] + "..."  # noqa: PLR2004 - what fits a line
    expected = fault.get("ctx", {}).get("expected")
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        values = [value.strip(" '") for value in str(expected).replace(" or ", ", ").split(",")]
        return f"expected one of {', '.join(values)}; found {shown}{_suggestion(fault['input'], values)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}; found {shown}"


def _path_in(data: Data, location: tuple[str | int, ...]) -> tuple[KeyPath, KeyPath]:
    """Split pydantic's location into what is in the data and what is missing; names of union members are in neither."""
    path: list[str | int] = []
    here: Any = data
    for index, part in enumerate(location):
        if isinstance(here, dict) and part in here:
            path.append(part)
            here = here[str(part)]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
        elif index == len(location) - 1:
            return tuple(path), (part,)
    return tuple(path), ()


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


def _keys_at(kind: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Name the keys that the schema knows at a location."""
    schema = kind.model_json_schema()
    nodes = [schema]
    for part in location:
        following = [child for node in nodes for child in _children(schema, node, part)]
        nodes = following or nodes  # a part that names a union's member leads nowhere new
    return [
        key
        for node in nodes
        for alternative in _alternatives(schema, node)
        for key in alternative.get("properties", {})
    ]


def _children(schema: dict[str, Any], node: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
    alternatives = _alternatives(schema, node)
    if isinstance(part, int):
        return [alternative["items"] for alternative in alternatives if "items" in alternative]
    return [
        alternative["properties"][part] for alternative in alternatives if part in alternative.get("properties", {})
    ]


def _alternatives(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return _alternatives(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
    for union in ("anyOf", "oneOf"):
        if union in node:
            return [found for member in node[union] for found in _alternatives(schema, member)]
    return [node]
