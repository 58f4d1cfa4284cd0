"""Renders templates. In YAML every value is written as JSON, so that its type is never misread.

`{{ value }}` in a YAML template is the whole value, quoted. A string is concatenated inside the braces:
`{{ "./" ~ part.name }}`. Only comments take `{{ value | comment }}` as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files as resources
from pathlib import Path

from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket

from orchestrator.bundle.contents import CACHE, HEALTH_PORT, PORT
from orchestrator.bundle.gateway.documents import MODEL

_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON does not escape, but YAML forbids or treats as the end of a line."""


class _Verbatim(str):
    """A string that is not quoted."""

    __slots__ = ()


def render_yaml(template: str, **values: object) -> str:
    """Render a YAML template."""
    return _yaml_environment(double_dollars=False).get_template(template).render(values)


def render_compose(template: str, **values: object) -> str:
    """Render a Compose template. A `$` in a value is doubled, or Compose would replace `$NAME` by a shell variable."""
    return _yaml_environment(double_dollars=True).get_template(template).render(values)


def render_text(template: str, **values: object) -> str:
    """Render a template of prose, or of a format with its own quotes."""
    return _text_environment().get_template(template).render(values)


def verbatim(name: str) -> str:
    """Read a file of this package that every bundle has unchanged."""
    return (resources("orchestrator.bundle") / name).read_text(encoding="utf-8")


def to_json(document: object) -> str:
    """Write a JSON file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def quoted(value: object) -> str:
    """Write a value as JSON that every version of YAML reads alike."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@cache
def _yaml_environment(*, double_dollars: bool) -> Environment:
    def finalize(value: object) -> str:
        if isinstance(value, _Verbatim):
            return value
        return quoted(value).replace("$", "$$") if double_dollars else quoted(value)

    environment = _environment("compose" if double_dollars else "yaml", finalize)
    environment.filters["comment"] = lambda text: _Verbatim(" ".join(str(text).split()))
    return environment


@cache
def _text_environment() -> Environment:
    environment = _environment("text", None)
    environment.filters["measured"] = _measured
    environment.filters["band"] = _band
    environment.filters["code"] = lambda text: f"`{text}`"
    environment.filters["quoted"] = quoted
    environment.filters["sh"] = shlex.quote
    environment.filters["unit"] = _unit
    return environment


class _BytecodeCache(FileSystemBytecodeCache):
    """Keeps compiled templates for the next run, in a private folder below the temporary one.

    Compiling takes a quarter of a build without work. If they cannot be kept, they are compiled again.
    """

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):
            super().dump_bytecode(bucket)


def _bytecode_cache(kind: str) -> FileSystemBytecodeCache | None:
    """Return a cache for one kind and this version of the file, because compiled templates contain quoted constants."""
    state = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    with suppress(OSError, RuntimeError):
        return _BytecodeCache(pattern=f"orchestrator-{kind}-{state}-%s")
    return None


def _environment(kind: str, finalize: Callable[[object], str] | None) -> Environment:
    environment = Environment(
        bytecode_cache=_bytecode_cache(kind),
        loader=PackageLoader("orchestrator.bundle"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        comment_start_string="{##",  # {# is the length of an array in a shell
        comment_end_string="##}",
        autoescape=False,  # noqa: S701 - no HTML; YAML is quoted by `finalize`
        finalize=finalize,
    )
    environment.globals |= {"model": str(MODEL), "cache": CACHE, "port": PORT, "health_port": HEALTH_PORT}
    return environment


def _unit(assignment: str) -> str:
    """Write `NAME=value` as one word of a systemd unit: JSON's escapes are among systemd's, `%` and `$` are doubled."""
    return json.dumps(assignment, ensure_ascii=False).replace("%", "%%").replace("$", "$$")


def _measured(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.1f}{unit}"


def _band(predicted: Mapping[str, float] | None) -> str:
    """Format a prediction: its low, its expected and its high value."""
    if predicted is None:
        return "not predicted"
    return " / ".join(f"{predicted[name]:.3g}" for name in ("low", "expected", "high"))
