"""A step as data: one command with its needs and outputs, before any path or key is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.executors.job import Argument

CODE = "/opt/orchestrator"
"""Where a container finds our own code, read-only."""

FILES = "/etc/orchestrator"
"""Where a container finds the step's small files, read-only."""

PROVENANCE = "ORCHESTRATOR_PROVENANCE"
"""The variable in which a step that writes down what it was made from finds key, image and input digests, as JSON."""

SCRATCH = "/scratch"
"""Where a step that can go on after it was ended notes how far it is; kept until its result is published."""

OutputKind = Literal["folder", "json", "safetensors", "engine", "file"]


@dataclass(frozen=True)
class Input:
    """The artifact of an earlier step, mounted read-only."""

    step: str
    target: str


@dataclass(frozen=True)
class Folder:
    """A folder of this machine or of the project, mounted read-only."""

    path: str
    """Relative to the project folder, or absolute."""
    target: str


@dataclass(frozen=True)
class Output:
    """What must be there, with content, when the command has ended with status 0."""

    pattern: str
    """Relative to `/out`; a shell pattern that at least one file must match."""
    kind: OutputKind = "file"


@dataclass(frozen=True)
class Step:
    """One command, declared."""

    name: str
    argv: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    image: str | None = None
    """The image's name in the catalogue; None: this machine's Python."""
    portable: bool = False
    """Our own code: it may run on this machine's Python as well as in the image."""
    inputs: tuple[Input, ...] = ()
    folders: tuple[Folder, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Small text files by name, placed read-only at /etc/orchestrator/NAME."""
    provenance: bool = False
    """It is told what it was made from."""
    needs_code: bool = False
    """Our code is mounted at /opt/orchestrator and found by Python."""
    environment: Mapping[str, str | Argument] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the environment, which change how the command works and no byte of what it leaves; they are
    not part of the key."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets that it may use."""
    network: bool = False
    gpus: int = 0
    resumable: bool = False
    """It notes in `/scratch` how far it is, and goes on from there when it runs again."""
    libraries: tuple[str, ...] = ()
    """Libraries of this machine's Python that decide the result, besides those that count for every step."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """What decides the result and stands in no argument: file lists, host facts, versions."""

    @property
    def commands(self) -> tuple[tuple[Argument, ...], ...]:
        """The command and those that it runs in turn, which stand behind a bare `--`."""
        parts: list[list[Argument]] = [[]]
        for argument in self.argv:
            if argument == "--":
                parts.append([])
            else:
                parts[-1].append(argument)
        return tuple(tuple(part) for part in parts)
