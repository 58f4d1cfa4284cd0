"""Writes the page of what equals ModelOpt, from the last whole run of `make families`."""

from __future__ import annotations

from collections.abc import Iterable

from docs.generate.markdown import page, table
from tests.families.results import FORMATS, Result, Results, cell, share

_SHORT = 160
"""Characters of an error."""


def reference() -> str:
    """Write docs/reference/families.md."""
    results = Results.read()
    made = [row for row in results.rows if not row.not_made]
    exported = [row for row in made if not all(outcome.not_exported for outcome in row.formats.values())]
    not_exported = [row for row in made if row not in exported]
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return page(
        "Families of models",
        f"""`make families` walks the registry of transformers: all causal language models, and all models of images and
text. It makes a tiny random model of each from the default configuration, lets ModelOpt export it, and compares every
tensor with the checkpoint that method `onepass` writes, byte by byte, with scale search `max`.
({versions}; {results.day})""",
        _shares(results.rows),
        "## What ModelOpt exports",
        table(["family", "class", *FORMATS], map(_row, exported)),
        """¹ ModelOpt also quantizes linear modules outside of the layers: projectors of images, poolers, heads with
other names. `onepass` leaves them as they are.

² Calibration never reaches some modules. ModelOpt leaves out their input scale; `onepass` writes 1, because runtimes
read it.

³ ModelOpt writes some names of transformers. `onepass` keeps those of the checkpoint.""",
        "## What method onepass refuses",
        table(["family", "class", "reason"], _refused(exported)),
        "## What ModelOpt does not export",
        """What it writes does not count as an export if it has empty tensors, less than half of the weights of the
layers quantized, or other weights than the source.""",
        table(
            ["family", "class", "error"], ([row.family, row.architecture, _first_error(row)] for row in not_exported)
        ),
        "## What was not tried",
        "No tiny model could be made of these, or it needs more than text to run.",
        table(["family", "error"], ([row.family, _short(row.not_made)] for row in results.rows if row.not_made)),
    )


def _shares(rows: Iterable[Result]) -> str:
    rows = tuple(rows)
    lines = []
    for number_format in FORMATS:
        equal, exported = share(rows, number_format)
        if exported:
            lines.append([number_format, str(exported), str(equal), f"{100 * equal / exported:.1f} %"])
    return table(["format", "families that ModelOpt exports", "equal", "share"], lines)


def _row(row: Result) -> list[str]:
    outcomes = (row.formats.get(number_format) for number_format in FORMATS)
    cells = ("not tried" if one is None else "refused" if one.refused else cell(one) for one in outcomes)
    return [row.family, f"`{row.architecture}`", *cells]


def _refused(rows: Iterable[Result]) -> Iterable[list[str]]:
    for row in rows:
        reasons = [outcome.refused for outcome in row.formats.values() if outcome.refused]
        if reasons:
            yield [row.family, f"`{row.architecture}`", _short(reasons[0])]


def _first_error(row: Result) -> str:
    return _short(next(outcome.not_exported for outcome in row.formats.values() if outcome.not_exported))


def _short(error: str) -> str:
    return f"{error[:_SHORT]}…" if len(error) > _SHORT else error
