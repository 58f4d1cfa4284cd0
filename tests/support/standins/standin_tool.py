"""What all stand-ins share: the options of the real tool, its endings, and time to be killed in.

A stand-in refuses what the real tool would refuse, reads its inputs, and leaves believable files that depend on
inputs and options alone. It needs Python's standard library and the tables of `docker/tools`, found in `options/`
beside this file, in the folder that STANDIN_OPTIONS names, or in the checkout. The folder must be readable as a
Python package, so its name has no dash; links to its programs may stand where an image has the real ones.

Environment: STANDIN_SECONDS stretches a step; STANDIN_TABLES names tables other than the oldest
(`trtllm-serve-2026-07 trtllm-bench-2026-07`); STANDIN_FAIL makes the tools it names end with status 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

_HERE = Path(__file__).resolve().parent
_WRONG_USAGE = 2
_CHUNK = 1 << 20


@dataclass
class Given:
    """A command line, read."""

    positionals: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    """By the first spelling of the option; a flag has an empty value."""

    def get(self, flag: str, default: str | None = None) -> str:
        """Give an option's value, or its default; without either the option is required."""
        value = self.values.get(flag, default)
        if value is None:
            refuse(f"the following arguments are required: {flag}")
        return value

    def folder(self, flag: str) -> Path:
        """Give a folder that must exist."""
        return existing(Path(self.get(flag)))


def main(tool: str, run: Callable[[Given], None]) -> NoReturn:
    """Run a stand-in to its end."""
    signal.signal(signal.SIGTERM, _terminate)
    given = read_options(tool, sys.argv[1:])
    if tool in os.environ.get("STANDIN_FAIL", "").split():
        fail(f"{tool}: told to fail")
    run(given)
    sys.exit(0)


def read_options(tool: str, arguments: Sequence[str]) -> Given:
    """Check a command line against the tool's table; end with status 2 where the tool would."""
    options = _options(tool)
    given, rest = Given(), list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            given.positionals.append(argument)
            continue
        flag, equals, value = argument.partition("=")
        if flag not in options:
            refuse(f"unrecognized arguments: {argument}")
        option = options[flag]
        if option["type"] == "flag":
            if equals:
                refuse(f"argument {flag}: takes no value")
        elif not equals:
            if not rest:
                refuse(f"argument {flag}: expected one argument")
            value = rest.pop(0)
        _check(flag, option, value)
        given.values[option["flags"][0]] = value
    return given


def _check(flag: str, option: dict[str, Any], value: str) -> None:
    kinds: dict[str, Callable[[str], object]] = {"int": int, "float": float}
    try:
        kinds.get(option["type"], str)(value)
    except ValueError:
        refuse(f"argument {flag}: invalid {option['type']} value: {value!r}")
    choices = option.get("choices") or [value]
    if value not in choices:
        refuse(f"argument {flag}: invalid choice: {value!r} (choose from {', '.join(choices)})")


def _options(tool: str) -> dict[str, dict[str, Any]]:
    stem = tool.removesuffix(".py")
    tables = sorted(file for file in _tables() if file.stem == stem or file.stem.startswith(stem + "-"))
    asked = os.environ.get("STANDIN_TABLES", "").split()
    chosen = [file for file in tables if file.stem in asked] or tables[:1]
    if not chosen:
        fail(f"{tool}: no table of its options beside {_HERE}")
    return {flag: option for option in json.loads(chosen[0].read_bytes()) for flag in option["flags"]}


def _tables() -> Iterator[Path]:
    places = [Path(os.environ.get("STANDIN_OPTIONS", _HERE / "options")), *(p / "docker/tools" for p in _HERE.parents)]
    folder = next((place for place in places if place.is_dir()), _HERE)
    return folder.glob("*.json")


def existing(folder: Path) -> Path:
    """Insist on a folder."""
    if not folder.is_dir():
        fail(f"FileNotFoundError: no such folder: {folder}")
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object that must be there."""
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        fail(f"{type(error).__name__}: {file}: {error}")
    if not isinstance(document, dict):
        fail(f"TypeError: {file} is no object")
    return document


def write_json(file: Path, document: object) -> None:
    """Write a JSON document, always the same way."""
    file.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")


def content_digest(folder: Path, pattern: str = "*") -> str:
    """Name the content of a folder's files: their names and bytes."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.glob(pattern) if path.is_file()):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def derived_bytes(seed: str, count: int) -> bytes:
    """Make bytes that follow from a text."""
    blocks = (hashlib.sha256(f"{seed}/{number}".encode()).digest() for number in range(count // 32 + 1))
    return b"".join(blocks)[:count]


def work(what: str) -> None:
    """Take the time that STANDIN_SECONDS gives, with a line of log for each part of it."""
    seconds = float(os.environ.get("STANDIN_SECONDS", "0"))
    parts = max(1, min(20, int(seconds * 4)))
    for part in range(1, parts + 1):
        time.sleep(seconds / parts)
        say(f"[stand-in] {what}: {part}/{parts}")


def say(line: str) -> None:
    """Write a line of log."""
    print(line, flush=True)  # noqa: T201 - it is a program


def fail(message: str) -> NoReturn:
    """End as a tool ends that has met an error."""
    sys.stderr.write(f"{message}\n")
    sys.exit(1)


def refuse(message: str) -> NoReturn:
    """End as an option parser ends."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(_WRONG_USAGE)


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
