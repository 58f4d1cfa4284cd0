"""The results of `make families`: one row for each family."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

FILE = Path(__file__).with_name("results.json")
_FEW = 8
FORMATS = ("nvfp4", "fp8", "w4a16_nvfp4")


@dataclass(frozen=True)
class Outcome:
    """What became of a family in one format."""

    not_exported: str = ""
    """ModelOpt's error."""
    refused: str = ""
    """Our error."""
    differ: tuple[str, ...] = ()
    """The tensors that are not the same bytes."""
    beside: tuple[str, ...] = ()
    """Tensors of modules outside of the layers, which ModelOpt quantizes, too."""
    unreached: tuple[str, ...] = ()
    """Input scales of modules that calibration never reached, which ModelOpt leaves out."""
    renamed: tuple[str, ...] = ()
    """Tensors for which ModelOpt writes the names of transformers."""

    @classmethod
    def of(cls, outcome: Mapping[str, Any]) -> Self:
        """Read it from a row of the worker."""
        values: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in outcome.items()}
        return cls(**values)

    @property
    def is_equal(self) -> bool:
        """Whether both wrote the same bytes, but for the deliberate differences."""
        return not (self.not_exported or self.refused or self.differ)


@dataclass(frozen=True)
class Result:
    """A family's row."""

    family: str
    """Its `model_type`."""
    architecture: str = ""
    not_made: str = ""
    """Why there is no tiny model."""
    formats: Mapping[str, Outcome] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of the worker."""
        formats = {name: Outcome.of(outcome) for name, outcome in row.get("formats", {}).items()}
        return cls(row["family"], row.get("architecture", ""), row.get("not_made", ""), formats)

    @property
    def document(self) -> dict[str, Any]:
        """The row as JSON has it."""
        if self.not_made:
            return {"family": self.family, "not_made": self.not_made}
        formats = {
            name: {key: value for key, value in vars(outcome).items() if value}
            for name, outcome in self.formats.items()
        }
        return {"family": self.family, "architecture": self.architecture, "formats": formats}

    @property
    def is_equal(self) -> bool:
        """Whether the family is equal in all formats that ModelOpt exports."""
        return all(outcome.is_equal or outcome.not_exported for outcome in self.formats.values()) and not self.not_made


@dataclass(frozen=True)
class Results:
    """A whole run."""

    versions: Mapping[str, str]
    """Of the libraries."""
    rows: tuple[Result, ...]
    day: str = ""
    """When the run ended."""

    @classmethod
    def read(cls, file: Path = FILE) -> Self:
        """Read the last whole run."""
        found = json.loads(file.read_text(encoding="utf-8"))
        return cls(found["versions"], tuple(map(Result.of, found["rows"])), found.get("day", ""))

    @property
    def refused(self) -> dict[str, dict[str, str]]:
        """Our errors by format: of what ModelOpt exports, by family, and by class if all its families are refused."""
        exported: dict[str, dict[str, list[Outcome]]] = {}
        for row in self.rows:
            for name in filter(None, (row.family, row.architecture)):
                for number_format, outcome in row.formats.items():
                    if not outcome.not_exported:
                        exported.setdefault(name, {}).setdefault(number_format, []).append(outcome)
        found = {
            name: {key: all_[0].refused for key, all_ in formats.items() if all(each.refused for each in all_)}
            for name, formats in sorted(exported.items())
        }
        return {name: formats for name, formats in found.items() if formats}

    def document(self) -> str:
        """Return the file's text: a line for each row."""
        rows = ",\n".join(json.dumps(row.document) for row in self.rows)
        return f'{{"day": {json.dumps(self.day)}, "versions": {json.dumps(self.versions)}, "rows": [\n{rows}\n]}}\n'


def _few(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Keep a few of many names."""
    return value if isinstance(value, str) else value[:_FEW]


def share(results: Iterable[Result], number_format: str) -> tuple[int, int]:
    """Return how many families are equal in a format, and how many ModelOpt exports in it."""
    found = [row.formats[number_format] for row in results if number_format in row.formats]
    exported = [outcome for outcome in found if not outcome.not_exported]
    return sum(outcome.is_equal for outcome in exported), len(exported)


def cell(outcome: Outcome) -> str:
    """Describe an outcome in a few words."""
    if outcome.not_exported:
        return "ModelOpt does not export it"
    if outcome.refused:
        return f"refused: {outcome.refused}"
    if outcome.differ:
        return f"differs, such as `{outcome.differ[0]}`"
    marks = {"¹": outcome.beside, "²": outcome.unreached, "³": outcome.renamed}
    return " ".join(("equal", *(mark for mark, found in marks.items() if found)))
