"""Formats what was measured, for tables and pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.app.measurements import Row, RowLevel

HEADS = ("concurrency", "tokens/s", "±", "predicted", "tokens/s per user", "to first token")


def level_cells(level: RowLevel) -> tuple[str, ...]:
    """Return the cells of a level for `HEADS`."""
    more = level.model_extra or {}
    first_token = (more.get("time_to_first_token_ms") or {}).get("average")
    return (
        str(level.concurrency),
        _shown(level.output_tokens_per_second),
        _width(level),
        "not known" if level.predicted is None else f"{level.predicted['expected']:.1f}",
        _shown(more.get("output_tokens_per_second_per_user")),
        _shown(first_token, " ms"),
    )


def row_cells(row: Row) -> Iterator[tuple[str, ...]]:
    """Return the cells of a row's levels: date, recipe, target, tokens in and out, and those of `HEADS`."""
    lengths = (f"{row.dataset.input_tokens:,}", f"{row.dataset.output_tokens:,}")
    for level in row.levels:
        yield f"{row.date:%Y-%m-%d}", row.recipe.name, row.recipe.target, *lengths, *level_cells(level)


def measured_cells(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """Return the rows of a page, as `pages.cells.MEASURED_HEADS` names them."""
    for row in rows:
        for date, _, _, read, written, users, measured, width, *_ in row_cells(row):
            yield date, users, read, written, _band(row, users), measured, width


def _band(row: Row, users: str) -> str:
    found = next((level.predicted for level in row.levels if str(level.concurrency) == users), None)
    return f"{found['expected']:.1f} ({found['low']:.1f} to {found['high']:.1f})" if found else "not known"


def _width(level: RowLevel) -> str:
    return f"{level.interval['relative_half_width']:.1%}" if level.interval else "one run"


def _shown(value: float | None, unit: str = "") -> str:
    return "not measured" if value is None else f"{value:.1f}{unit}"
