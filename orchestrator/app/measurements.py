"""Keeps measurements as rows: JSON lines with everything that decided them, in files that people can exchange.

A row is a benchmark's performance.json with its date, the recipe with all commits, the image's digest and the
prediction of that day. Each recipe has a file; a row is added at its end, and never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from orchestrator.app.settings import Settings
from orchestrator.errors import MeasurementUnusableError, machine_faults
from orchestrator.recipe.names import NAME_PATTERN

_ENDING = ".jsonl"
_Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Fact(BaseModel):
    """A part of a row. A later version may add fields, which are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class RowLevel(_Fact):
    """What was measured at one level of concurrency."""

    concurrency: int = Field(ge=1)
    output_tokens_per_second: _Number
    interval: dict[str, Any] | None = None
    """How well the mean is known; None: it was measured once."""
    predicted: dict[str, float] | None = None
    """Tokens per second, `low`, `expected` and `high`, by the constants of that day; None: the sizes are not known."""


class RowDataset(_Fact):
    """The requests."""

    input_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)


class RowRecipe(_Fact):
    """What was measured: the recipe, with commits in place of branches."""

    name: str = Field(pattern=NAME_PATTERN)
    target: str


class Row(_Fact):
    """One measurement."""

    schema_version: Literal[1]
    date: AwareDatetime
    orchestrator: str
    """The version of this program."""
    recipe: RowRecipe
    image_digest: str | None = None
    tool: dict[str, str | None]
    """What measured, with its version."""
    facts: dict[str, str]
    """The runtime's version, the GPU and its compute capability, the format, the image."""
    provenance: dict[str, Any]
    """The step's key, its image and the digests of what it read."""
    dataset: RowDataset
    levels: tuple[RowLevel, ...] = Field(min_length=1)

    @property
    def identity(self) -> str:
        """What two copies of one measurement have in common."""
        own = [self.provenance, [level.model_dump(mode="json", exclude={"predicted"}) for level in self.levels]]
        return json.dumps(own, sort_keys=True)

    def document(self) -> dict[str, Any]:
        """Convert to JSON; `levels`, `dataset`, `facts` and `provenance` are those of performance.json."""
        return self.model_dump(mode="json")


def rows_in(settings: Settings, recipe: str | None = None) -> Iterator[Row]:
    """Read the rows of the project, the oldest first.

    Args:
        settings: The environment and the folders.
        recipe: One recipe; all, if none is named.

    Raises:
        MeasurementUnusableError: A line is no row.
    """
    files = sorted(settings.measurements.glob(f"{recipe or '*'}{_ENDING}"))
    yield from sorted((row for file in files for row in read_rows(file)), key=lambda row: row.date)


def read_rows(file: Path) -> tuple[Row, ...]:
    """Read a file of rows.

    Raises:
        MeasurementUnusableError: There is no such file, or a line is no row.
        NoPermissionError: The user may not read it.
    """
    if not file.is_file():
        message = f"there is no file {file}"
        raise MeasurementUnusableError(message, hint="rows are written by `orchestrator measurements --export FILE`")
    with machine_faults(f"reading {file}"):
        lines = file.read_bytes().splitlines()
    return tuple(_row(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip())


def add_rows(settings: Settings, rows: Iterable[Row]) -> int:
    """Add rows that are not there yet, each to the file of its recipe. Return their number."""
    added, known = 0, {row.identity for row in rows_in(settings)}
    with machine_faults("writing measurements"):
        settings.measurements.mkdir(parents=True, exist_ok=True)
        for row in rows:
            if row.identity not in known:
                known.add(row.identity)
                added += 1
                _append(settings.measurements / f"{row.recipe.name}{_ENDING}", [row])
    return added


def export_rows(rows: Sequence[Row], file: Path) -> None:
    """Write rows to one file.

    Raises:
        DiskFullError: The disk has no space for it.
        NoPermissionError: The user may not write it.
    """
    with machine_faults(f"writing {file}"):
        file.unlink(missing_ok=True)
        _append(file, rows)


def row_of(fields: Mapping[str, Any], where: str) -> Row:
    """Make a row of its JSON fields.

    Raises:
        MeasurementUnusableError: A field is missing or has a value that no measurement has.
    """
    try:
        return Row.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{where}: {place}: {first['msg']}; found {first['input']!r:.80}"
        raise MeasurementUnusableError(message, hint="rows are written by `orchestrator bench`") from error


def _row(line: bytes, where: str) -> Row:
    try:
        fields = json.loads(line)
    except ValueError as error:
        message = f"{where}: expected a row in JSON: {error}"
        raise MeasurementUnusableError(message, hint="remove the line") from error
    return row_of(fields, where)


def _append(file: Path, rows: Sequence[Row]) -> None:
    """Write whole lines at once, so that two writers do not mix theirs."""
    with file.open("ab", buffering=0) as stream:
        stream.write("".join(json.dumps(row.document(), ensure_ascii=False) + "\n" for row in rows).encode())
