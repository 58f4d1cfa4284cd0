"""Records each recipe's newest build, step by step, in one small file for `status`, `logs` and `gc`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.store import owner
from orchestrator.store.fingerprint import fingerprint_of
from orchestrator.store.temporary import replacing

State = Literal["waiting", "running", "done", "reused", "failed", "interrupted"]
_OVER = ("failed", "interrupted")
_FIELDS = ("recipe", "process", "started", "finished", "owner", "beyond")
"""What the file has besides the entries."""


@dataclass
class Entry:
    """One step of the newest build."""

    name: str
    state: State = "waiting"
    key: str = ""
    seconds: float = 0.0
    log: str = ""
    error: str = ""

    def finished(self, key: str, *, reused: bool, log: Path) -> None:
        """Record a step's result."""
        self.key, self.state, self.log = key, "reused" if reused else "done", str(log)


@dataclass
class Journal:
    """The newest build of one recipe."""

    file: Path
    recipe: str
    process: int
    started: float
    """Seconds since the epoch, only for display."""
    steps: list[Entry] = field(default_factory=list)
    finished: bool = False
    owner: str = ""
    """The process, in a form that no later process has."""
    beyond: dict[str, str] = field(default_factory=dict)
    """Results of earlier builds for steps that this build does not reach. They are kept."""
    _encoded: dict[str, str] = field(default_factory=dict, repr=False)
    """The JSON of each entry as it was last written. Only those that changed are encoded again."""
    _written: str = field(default="", repr=False)
    """The fingerprint of the file that was last written. If it is unchanged, the file is not read again."""

    @property
    def keys(self) -> frozenset[str]:
        """All results that the newest build made or found, and those of earlier builds beyond its last step."""
        return frozenset(key for key in (*(entry.key for entry in self.steps), *self.beyond.values()) if key)

    @classmethod
    def start(cls, root: Path, recipe: str, steps: list[str]) -> Journal:
        """Start a new journal in place of the old one."""
        file = _file(root, recipe)
        file.parent.mkdir(parents=True, exist_ok=True)
        entries = [Entry(name) for name in steps]
        before = cls.read(root, recipe)
        known = {**before.beyond, **{entry.name: entry.key for entry in before.steps if entry.key}} if before else {}
        beyond = {name: key for name, key in known.items() if name not in steps}
        journal = cls(file, recipe, os.getpid(), time.time(), entries, owner=owner.this_process(), beyond=beyond)
        journal._save()
        return journal

    @classmethod
    def read(cls, root: Path, recipe: str) -> Journal | None:
        """Read a recipe's newest build; None if there is none."""
        file = _file(root, recipe)
        if file.parent != root / "runs":  # a path instead of a name on the command line
            return None
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            steps = [Entry(**entry) for entry in fields.pop("steps")]
            return cls(file, steps=steps, **fields)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    @classmethod
    def recipes(cls, root: Path) -> tuple[str, ...]:
        """List every recipe that has a build here."""
        return tuple(sorted(file.stem for file in (root / "runs").glob("*.json")))

    @classmethod
    def unreadable(cls, root: Path) -> tuple[Path, ...]:
        """List the files of builds that cannot be read."""
        return tuple(_file(root, name) for name in cls.recipes(root) if cls.read(root, name) is None)

    @contextmanager
    def step(self, name: str, key: str = "") -> Iterator[Entry]:
        """Record that a step runs, its key, and how it ended."""
        entry = next(entry for entry in self.steps if entry.name == name)
        entry.state, entry.key = "running", key
        self._save(entry)
        started = time.monotonic()
        try:
            yield entry
        except BaseException as error:
            entry.state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            entry.error = str(error)
            entry.seconds = time.monotonic() - started
            with suppress(OSError):  # on a full disk, the reason why the step failed matters more
                self._save(entry)
            raise
        entry.seconds = time.monotonic() - started
        self._save(entry)

    def done(self) -> None:
        """Record the end of the build."""
        self.finished = True
        self._save()

    @property
    def alive(self) -> bool:
        """Whether the process that wrote it still runs."""
        return bool(self.owner) and owner.is_running(self.owner)

    @property
    def is_running(self) -> bool:
        """Whether the build continues."""
        return self.alive and not self.finished and not any(entry.state in _OVER for entry in self.steps)

    def state_of(self, entry: Entry) -> str:
        """Tell a step that runs from one whose orchestrator ended, which is `abandoned`."""
        return "abandoned" if entry.state == "running" and not self.alive else entry.state

    def _save(self, changed: Entry | None = None) -> None:
        """Write the file, with one changed entry or all."""
        if not self._is_newest():
            return
        for entry in self.steps if changed is None else (changed,):
            self._encoded[entry.name] = json.dumps(vars(entry))
        fields = {name: value for name, value in vars(self).items() if name in _FIELDS}
        with replacing(self.file) as fresh:
            fresh.write_text(f'{json.dumps(fields)[:-1]}, "steps": [{", ".join(self._encoded.values())}]}}\n', "utf-8")
        self._written = fingerprint_of(self.file)

    def _is_newest(self) -> bool:
        """Whether no other build of the recipe was started since. The clock of another machine may be wrong."""
        if not self._written:
            return True
        with suppress(OSError):
            if fingerprint_of(self.file) == self._written:
                return True
        newest = Journal.read(self.file.parent.parent, self.recipe)
        return newest is None or newest.owner == self.owner


def _file(root: Path, recipe: str) -> Path:
    return root / "runs" / f"{recipe}.json"
