"""Calculates the key of a step: a digest of everything that decides the step's bytes.

Each field is spelled out by name, so that a new field of a step changes no key by accident. For each field a test
checks that two values give two keys. Not in a key: paths, names of recipes, log levels, tokens, time, and the text of
our code. The code's revision is in the key instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise

from orchestrator.executors.job import Argument, Inside
from orchestrator.payloads.revisions import PACKAGE, REVISIONS
from orchestrator.steps.step import Step
from orchestrator.values import frozen

FORMAT = 2
"""The version of this list of fields. With a new version, every user runs every step once more."""

NOT_IN_KEY: Mapping[str, str] = {
    "outputs": "they check the result of the command, and do not change it",
    "portable": "the place where the step runs is in the key, as `image` or `python`; other possible places are not",
    "provenance": "it follows from the key itself",
    "needs_code": "the revision of the payload stands for our code",
    "limits": "they change how the command works, and no byte of its result",
    "secrets": "a token lets a command read, and does not decide what it reads",
    "network": "what a command fetches is named in its arguments",
    "resumable": "a command that continues writes the same bytes as one without an interruption",
}
"""The fields of a step that do not decide its bytes, each with the reason."""


@frozen
class Surroundings:
    """The properties of this machine that decide a step's bytes."""

    inputs: Mapping[str, str]
    """The digest of each artifact that it reads, by the step that made it."""
    folders: Mapping[str, str]
    """The digest of each folder that it reads, by its path as the step has it."""
    image: str | None
    """The image in which it runs, with its digest if a lock has one; None: on this machine's Python."""
    python: Mapping[str, str]
    """On this machine's Python: its version and those of the libraries that count for every step."""
    libraries: Mapping[str, str]
    """On this machine's Python: the versions of the libraries that the step names."""


def key_fields(step: Step, surroundings: Surroundings) -> dict[str, object]:
    """Return everything that decides a step's result, by name, as JSON values."""
    return {
        "format": FORMAT,
        "step": step.name,
        "argv": [_json_value(argument) for argument in step.argv],
        "payloads": _revisions(step),
        "environment": {name: _json_value(value) for name, value in step.environment.items()},
        "inputs": {mount.target: surroundings.inputs[mount.step] for mount in step.inputs},
        "folders": {folder.target: surroundings.folders[folder.path] for folder in step.folders},
        "files": dict(step.files),
        "gpus": step.gpus,
        "identity": dict(step.identity),
        "image": surroundings.image,
        "python": dict(surroundings.python),
        "libraries": dict(surroundings.libraries),
    }


def key_of(fields: Mapping[str, object]) -> str:
    """Return the key: 64 hexadecimal digits, the same for equal fields."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _json_value(argument: Argument) -> str | list[str]:
    return [argument.target, argument.path] if isinstance(argument, Inside) else argument


def _revisions(step: Step) -> dict[str, int]:
    """Return the revision of each of our payloads that a step runs."""
    modules = (
        module
        for option, module in pairwise(step.argv)
        if option == "-m" and isinstance(module, str) and module.startswith(PACKAGE)
    )
    return {module: REVISIONS[module.removeprefix(PACKAGE)] for module in modules}
