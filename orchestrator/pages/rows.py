"""Cells of the tables that the screen, Markdown and a page have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.planner.comparison import Row
from orchestrator.planner.drafted import Drafted
from orchestrator.planner.duration import Span
from orchestrator.planner.estimate import Cell, Speeds, Stage
from orchestrator.planner.figures import gigabytes
from orchestrator.planner.phases import Phase
from orchestrator.planner.speed import Band

NOTHING = "-"
"""In a cell where there is nothing to say."""

FORMAT_HEADS = ("format", "fits", "weights", "longest context", "most texts", "decode tok/s", "its limit")
PHASE_HEADS = ("phase", "memory", "of its room", "disk", "time", "memory rests on")

PHASE_NAMES: Mapping[Phase, str] = {
    "download": "download",
    "quantize": "quantize",
    "evaluate": "compare",
    "convert": "convert",
    "engine_build": "build engine",
    "load": "load",
    "serve": "serve",
}
_RESTS_ON = {
    "exact": "exact bytes",
    "formula": "exact bytes, formula",
    "measured": "measured constant",
    "assumed": "assumption",
}
_THREE_DIGITS = 99.5
_MINUTE, _HOUR = 60, 3600


def format_cells(row: Row) -> tuple[str, ...]:
    """Write one format, as `FORMAT_HEADS` names it."""
    found = row.outlook
    return (
        row.label,
        "yes" if found.fits else "no",
        gigabytes(found.weights_bytes),
        f"{found.max_context:,}" if found.max_context else "none",
        f"{found.max_batch:,}" if found.max_batch else "none",
        band_words(found.decode),
        f"{found.ceiling:,.1f}" if found.ceiling else NOTHING,
    )


def phase_cells(stage: Stage) -> tuple[str, ...]:
    """Write one phase, as `PHASE_HEADS` names it."""
    peak = stage.peak
    return (
        PHASE_NAMES[stage.phase],
        gigabytes(peak.total),
        f"{'' if peak.fits else 'too much: '}{peak.total / peak.room:.0%}",
        f"+{gigabytes(stage.kept)}" if stage.kept else "",
        span_words(stage.time) if stage.time else "",
        _RESTS_ON[peak.kind],
    )


def speed_heads(speeds: Speeds) -> tuple[str, ...]:
    """Head the table of speeds: one column for each length of text."""
    return ("tokens/s", *(f"{prefill.context:,} tokens" for prefill in speeds.prefill))


def speed_rows(speeds: Speeds) -> Iterable[tuple[str, ...]]:
    """Write decode by texts at once, its limit, and prefill."""
    contexts = len(speeds.prefill)
    for start in range(0, len(speeds.decode), contexts):
        cells = speeds.decode[start : start + contexts]
        yield (f"decode, {_texts(cells[0].batch)}", *map(_cell, cells))
    yield ("limit, 1 text", *(short(prefill.ceiling) for prefill in speeds.prefill))
    yield ("prefill, 1 prompt", *(span_of(prefill.band) for prefill in speeds.prefill))


def draft_words(found: Drafted) -> str:
    """Say what drafts make of one stream: `5 per step, 11.0 tok/s (8.8-13.2) if 80% of them are accepted; …`."""
    speeds = ", ".join(f"{span_of(band)} tok/s if each is accepted with {share:.0%}" for share, band in found.speeds)
    pays = f"faster than none from {found.pays_from:.0%}" if found.pays_from is not None else "never faster than none"
    return f"{found.draft_length} per step: {speeds}; {pays}"


def band_words(band: Band | None) -> str:
    """Write a speed with its band: `5.0 (4.4 to 5.6)`."""
    return f"{band.expected:,.1f} ({band.low:,.1f} to {band.high:,.1f})" if band else NOTHING


def span_of(band: Band) -> str:
    """Write a speed with its band where there is little room: `5.0 (4.4-5.6)`."""
    return f"{short(band.expected)} ({short(band.low)}-{short(band.high)})"


def short(value: float) -> str:
    """Write a speed in as many digits as it deserves: `4.9`, `566`."""
    return f"{value:,.0f}" if value >= _THREE_DIGITS else f"{value:.1f}"


def span_words(span: Span) -> str:
    """Write how long: `6 to 57 min`, `11 s to 2 min`."""
    least, most = _clock(span.least), _clock(span.most)
    if least == most:
        return " ".join(most)
    return f"{least[0]} to {' '.join(most)}" if least[1] == most[1] else f"{' '.join(least)} to {' '.join(most)}"


def _clock(seconds: float) -> tuple[str, str]:
    if seconds < 1:
        return "1", "s"
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f}", "s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.0f}", "min"
    return f"{seconds / _HOUR:.0f}", "h"


def _cell(cell: Cell) -> str:
    return span_of(cell.decode) if cell.decode else "no room"


def _texts(batch: int) -> str:
    return "1 text" if batch == 1 else f"{batch} texts"
