"""Keeps the runs of a tuning in a file, so that an interrupted one continues and none is repeated."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import LedgerInvalidError, machine_faults
from orchestrator.planner.tuning import Axis, Crash
from orchestrator.store import owner
from orchestrator.store.temporary import replacing
from orchestrator.values import frozen

_VERSION = 1


@frozen
class Run:
    """One run."""

    values: dict[str, Any]
    """Those in which it differs from the recipe, by key path."""
    predicted: float | None
    """Tokens per second."""
    speed: float | None
    """Tokens per second, lowered by the share by which a time was missed; None: it crashed."""
    figures: dict[str, Any] = field(default_factory=dict)
    """As in performance.json."""
    crash: Crash | None = None
    message: str = ""
    seconds: float = 0.0
    """How long it took; 0: the plan refused it, and nothing ran."""


@dataclass
class Ledger:
    """All runs for one workload."""

    file: Path
    identity: str
    """A digest of all that decides the runs, but for their values."""
    recipe: str
    workload: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    running: dict[str, Any] | None = None
    """The values of the run that was started last, and its process, until it ended."""
    stopped: list[str] = field(default_factory=list)
    """Containers that were stopped for the runs and have to be started again."""
    former: str | None = None
    """The identity of another ledger in the file, which is set aside before this one is written."""

    @classmethod
    def open(cls, file: Path, identity: str, recipe: str, workload: dict[str, Any]) -> Ledger:
        """Continue a ledger, or begin one. Another recipe, image or program has another, and its own is set aside.

        A run during which the machine went down counts as one that hung.

        Raises:
            LedgerInvalidError: The file cannot be read.
        """
        found = cls._read(file)
        if found is None or found.identity != identity:
            stopped, former = (found.stopped, found.identity) if found else ([], None)
            return cls(file, identity, recipe, workload, stopped=stopped, former=former)
        if found.running and not _same_boot(found.running["owner"]):
            values = found.running["values"]
            found.runs.append(Run(values, None, None, crash="hang", message="the machine went down during this run"))
        found.running = None
        return found

    def begin(self, values: dict[str, Any]) -> None:
        """Note that a run starts."""
        self.running = {"values": values, "owner": owner.this_process()}
        self.save()

    def end(self, run: Run | None) -> None:
        """Note how it ended; None: it was interrupted and may run again."""
        self.running = None
        self.runs += [run] if run else []
        self.save()

    def save(self) -> None:
        """Write it.

        Raises:
            DiskFullError: The disk has no space for it.
        """
        with machine_faults("writing the ledger"):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self.former:
                self.file.replace(self.file.with_name(f"{self.file.stem}-{self.former[:8]}{self.file.suffix}"))
                self.former = None
            with replacing(self.file) as fresh:
                fresh.write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")

    def document(self) -> dict[str, Any]:
        """Convert it to JSON."""
        fields = asdict(self)
        del fields["file"], fields["former"]
        return {"schema_version": _VERSION, **fields}

    @classmethod
    def _read(cls, file: Path) -> Ledger | None:
        try:
            fields = json.loads(file.read_bytes())
            if fields.pop("schema_version") != _VERSION:
                return None
            return cls(file, runs=[Run(**run) for run in fields.pop("runs")], **fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            message = f"{file}: expected the ledger of a tuning: {error}"
            raise LedgerInvalidError(message, hint="remove it, and the runs start from the beginning") from error


def identity_of(axes: tuple[Axis, ...], parts: object) -> str:
    """Return a digest of the options to try and of what decides a run besides them."""
    text = json.dumps([[axis.name, axis.values] for axis in axes]) + json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _same_boot(process: str) -> bool:
    return process.partition("@")[0] == owner.this_process().partition("@")[0]
