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
from pathlib import Path

from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket

_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON does not escape, but YAML forbids or treats as the end of a line."""


class _Verbatim(str):
    """A string that is not quoted."""

    __slots__ = ()


def yaml_text(template: str, **values: object) -> str:
    """Render a template of YAML."""
    return _yaml(dollars=False).get_template(template).render(values)


def compose_text(template: str, **values: object) -> str:
    """Render a template of Compose, in which `$NAME` in a value would be a variable of the shell."""
    return _yaml(dollars=True).get_template(template).render(values)


def plain_text(template: str, **values: object) -> str:
    """Render a template of text for people, or of a format with quotes of its own."""
    return _plain().get_template(template).render(values)


def quoted(value: object) -> str:
    """Write a value as JSON that every version of YAML reads alike."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@cache
def _yaml(*, dollars: bool) -> Environment:
    def finalize(value: object) -> str:
        if isinstance(value, _Verbatim):
            return value
        return quoted(value).replace("$", "$$") if dollars else quoted(value)

    environment = _environment("compose" if dollars else "yaml", finalize)
    environment.filters["comment"] = lambda text: _Verbatim(" ".join(str(text).split()))
    return environment


@cache
def _plain() -> Environment:
    environment = _environment("plain", None)
    environment.filters["measured"] = _measured
    environment.filters["band"] = _band
    environment.filters["code"] = lambda text: f"`{text}`"
    environment.filters["quoted"] = quoted
    environment.filters["sh"] = shlex.quote
    return environment


class _Compiled(FileSystemBytecodeCache):
    """Compiled templates of an earlier run, in a private folder below the temporary one.

    Compiling takes a quarter of a build without work. If they cannot be kept, they are compiled again.
    """

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):
            super().dump_bytecode(bucket)


def _compiled(kind: str) -> FileSystemBytecodeCache | None:
    """Find the compiled templates of one kind and of this file's version, because they contain quoted constants."""
    state = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    with suppress(OSError, RuntimeError):
        return _Compiled(pattern=f"orchestrator-{kind}-{state}-%s")
    return None


def _environment(kind: str, finalize: Callable[[object], str] | None) -> Environment:
    return Environment(
        bytecode_cache=_compiled(kind),
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


def _measured(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.1f}{unit}"


def _band(predicted: Mapping[str, float] | None) -> str:
    """Format a prediction: its low, its expected and its high value."""
    if predicted is None:
        return "not predicted"
    return " / ".join(f"{predicted[name]:.3g}" for name in ("low", "expected", "high"))
