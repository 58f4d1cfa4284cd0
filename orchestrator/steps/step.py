"""Defines a step: one command with its needs and outputs, before any path or key is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from orchestrator.executors.job import Argument
from orchestrator.values import frozen

CODE = "/opt/orchestrator"
"""The read-only folder of our own code in a container."""

FILES = "/etc/orchestrator"
"""The read-only folder of the step's small files in a container."""

PROVENANCE = "ORCHESTRATOR_PROVENANCE"
"""The variable with key, image and input digests as JSON, for a step that writes its provenance."""

SCRATCH = "/scratch"
"""The folder for the saved state of a resumable step; kept until its result is published."""

OutputKind = Literal["folder", "json", "safetensors", "engine", "file"]


@frozen
class Input:
    """The artifact of an earlier step, mounted read-only."""

    step: str
    target: str


@frozen
class Folder:
    """A folder of this machine or of the project, mounted read-only."""

    path: str
    """Relative to the project folder, or absolute."""
    target: str


@frozen
class Output:
    """A required output with content after exit status 0."""

    pattern: str
    """Relative to `/out`; a shell pattern that at least one file must match."""
    kind: OutputKind = "file"


@frozen
class Step:
    """One command, declared."""

    name: str
    argv: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    image: str | None = None
    """The image's name in the catalogue; None: this machine's Python."""
    portable: bool = False
    """Our own code. It may run on this machine's Python as well as in the image."""
    inputs: tuple[Input, ...] = ()
    folders: tuple[Folder, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Small text files by name, placed read-only at /etc/orchestrator/NAME."""
    provenance: bool = False
    """It gets its provenance."""
    needs_code: bool = False
    """Our code is mounted at /opt/orchestrator and found by Python."""
    environment: Mapping[str, str | Argument] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    """More environment variables, which change how the command works and no byte of its result. They are
    not part of the key."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets that it may use."""
    network: bool = False
    gpus: int = 0
    resumable: bool = False
    """It saves its state in `/scratch`, and continues from there when it runs again."""
    libraries: tuple[str, ...] = ()
    """Libraries of this machine's Python that decide the result, besides those that count for every step."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """What decides the result and is not in an argument: file lists, host facts, versions."""

    @property
    def commands(self) -> tuple[tuple[Argument, ...], ...]:
        """The command and those that it runs in turn, which follow a bare `--`."""
        parts: list[list[Argument]] = [[]]
        for argument in self.argv:
            if argument == "--":
                parts.append([])
            else:
                parts[-1].append(argument)
        return tuple(tuple(part) for part in parts)
