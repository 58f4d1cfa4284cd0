"""The reference of a recipe's keys, and the index of the recipes that come with the project."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from docs.generate.markdown import ROOT, block, code, codes, page, table
from orchestrator.app import planning
from orchestrator.app.make_plan import Plan
from orchestrator.app.recipe_name import RecipeName
from orchestrator.app.settings import Settings
from orchestrator.errors import Refusal
from orchestrator.recipe.schema import recipe_schema

_REFERENCE = "#/$defs/"
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}",
    "minLength": "{} character at least",
    "maxLength": "{} characters at most",
}
Schema = Mapping[str, Any]

SETTINGS = Settings({}, ROOT, ROOT / "build" / "no-store", ROOT / "build" / "no-dist")
"""The project as a fresh clone sees it: nothing is built."""

_INTRODUCTION = """\
A recipe is a YAML file `recipes/NAME.yaml`. It is YAML 1.2 without anchors, aliases, tags and duplicate keys, 256 KiB
and 24 levels at most; a key that does not exist is an error that names file, line and the likely right key.

`extends: NAME` lays the recipe over `recipes/bases/NAME.yaml` or another recipe, of the project or of the tool:
mappings merge, every other value replaces. `name`, `description` and `expected_refusals` are not inherited.
`--set key.path=value` overrides one value on the command line, and `orchestrator show NAME` prints the result with the
origin of each value.

Editors check recipes as they are written with [`recipes/recipe.schema.json`](../../recipes/recipe.schema.json)."""


def reference() -> str:
    """Write the page of a recipe's keys."""
    schema = recipe_schema()
    example = (ROOT / "recipes" / "llama3-8b-w4a16-nvfp4.yaml").read_text(encoding="utf-8")
    parts = [f"## {heading}\n\n{_section(schema, found)}" for heading, found in _sections(schema)]
    return page("Recipe", _INTRODUCTION, block(example, "yaml"), *parts)


def _sections(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield each mapping of a recipe under the path of its key, in the recipe's order, each kind once."""
    pending: list[tuple[str, Schema]] = [("", schema)]
    seen: list[Schema] = []
    while pending:
        path, found = pending.pop(0)
        if found in seen:
            continue
        seen.append(found)
        yield path or "The recipe itself", found
        inner = []
        for key, field in found["properties"].items():
            place = f"{path.partition(' with ')[0]}.{key}".strip(".")
            kinds = [_kind(schema, way) for way in _ways(field) if "$ref" in way]
            inner += [(place if len(kinds) == 1 else f"{place} with {_telling(kind)}", kind) for kind in kinds]
        pending = inner + pending


def _kind(schema: Schema, way: Schema) -> Schema:
    """Find the kind of mapping that a way refers to."""
    found: Schema = schema["$defs"][way["$ref"].removeprefix(_REFERENCE)]
    return found


def _ways(field: Schema) -> list[Schema]:
    """List what a value may be, null aside."""
    alternatives = [*field.get("anyOf", ()), *field.get("oneOf", ())]
    if alternatives:
        return [way for part in alternatives for way in _ways(part)]
    return [] if field.get("type") == "null" else [field]


def _telling(kind: Schema) -> str:
    """Name the key by which one alternative is told from the others."""
    fixed = [f"`{key}: {field['const']}`" for key, field in kind["properties"].items() if "const" in field]
    return next(iter(fixed), f"`{kind['required'][0]}`")


def _section(schema: Schema, found: Schema) -> str:
    required = found.get("required", ())
    rows = [
        (code(key), _type(field), _default(field, needed=key in required), _meaning(schema, field))
        for key, field in found["properties"].items()
    ]
    return f"{_words(found)}{table(('key', 'value', 'default', 'meaning'), rows)}"


def _meaning(schema: Schema, field: Schema) -> str:
    """Give a field's own words, else those of what it holds."""
    kinds = [_kind(schema, way)["description"] for way in _ways(field) if "$ref" in way]
    return " ".join(field.get("description", kinds[0] if len(kinds) == 1 else "").split())


def _words(found: Schema) -> str:
    words = " ".join(found.get("description", "").split())
    return f"{words}\n\n" if words else ""


def _type(field: Schema) -> str:
    return " or ".join(dict.fromkeys(_one_type(way) for way in _ways(field)))


def _one_type(field: Schema) -> str:
    if "$ref" in field:
        return "mapping, see below"
    if "enum" in field or "const" in field:
        return codes(field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return f"list: {_type(field['items'])}"
    if field["type"] == "object":
        return f"mapping of names to: {_type(field['additionalProperties'])}"
    return _plain_type(field)


def _plain_type(field: Schema) -> str:
    names = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    bounds = [words.format(f"{field[key]:,}".replace(",", " ")) for key, words in _BOUNDS.items() if key in field]
    return ", ".join((names[field["type"]], *bounds))


def _default(field: Schema, *, needed: bool) -> str:
    if needed:
        return "required"
    default = field.get("default")
    return "see below" if isinstance(default, dict) and default else code(json.dumps(default, ensure_ascii=False))


_SHIPPED = """\
These recipes come with the project. The last column is what `orchestrator plan` answers; no plan is a measurement."""


def shipped() -> str:
    """Write the page of the recipes: a table, and why some are refused."""
    plans = {name: planning.plan(SETTINGS, RecipeName(name)).plan for name in SETTINGS.book.names}
    heads = ("recipe", "format", "method", "backend", "target", "image", "what `plan` answers")
    rows = [_row(name, plan) for name, plan in plans.items()]
    refused = f"## Why some are refused, and what works instead\n\n{_reasons(plans)}"
    return page("Recipes of the project", _SHIPPED, table(heads, rows), refused)


def _row(name: str, plan: Plan) -> tuple[str, ...]:
    recipe, quantization = plan.recipe, plan.recipe.quantization
    if plan.refusals:
        answer = f"refused: {codes(dict.fromkeys(found.code for found in plan.refusals))}"
    else:
        answer = f"can work{'; warns: ' if plan.warnings else ''}{codes(found.code for found in plan.warnings)}"
    place = f"[{name}](../../recipes/{name}.yaml)"
    return place, quantization.format, quantization.method, recipe.backend, recipe.target, recipe.image, answer


def _reasons(plans: Mapping[str, Plan]) -> str:
    """Write each reason once, with the recipes that it stops."""
    stopped: dict[Refusal, list[str]] = {}
    for name, plan in plans.items():
        for refusal in plan.refusals:
            stopped.setdefault(refusal, []).append(name)
    return "\n".join(
        f"- {codes(names)}: {_without_brackets(refusal.message)}. Instead: {_without_brackets(refusal.hint)}."
        for refusal, names in stopped.items()
    )


def _without_brackets(text: str) -> str:
    """Leave out where figures come from; `plan` says it."""
    shorter = re.sub(r" \([^()]*\)", "", text)
    return shorter if shorter == text else _without_brackets(shorter)
