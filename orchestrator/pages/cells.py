"""Formats the table cells that the screen, Markdown and pages share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.planner.comparison import Row, Terms
from orchestrator.planner.draft_speed import DraftSpeed
from orchestrator.planner.duration import Span
from orchestrator.planner.estimate import Cell, Speeds, Stage
from orchestrator.planner.figures import Figure, requests
from orchestrator.planner.phases import Peak, Phase, peak_words
from orchestrator.planner.speed import Band
from orchestrator.units import in_bytes

NOTHING = "-"
"""The text of an empty cell."""

FORMAT_HEADS = ("format", "fits", "weights", "max context", "max batch", "decode tok/s", "limit")
PHASE_HEADS = ("phase", "memory", "share used", "disk", "time", "memory rests on")

PHASE_NAMES: Mapping[Phase, str] = {
    "download": "download",
    "quantize": "quantize",
    "evaluate": "compare",
    "convert": "convert",
    "engine_build": "build engine",
    "load": "load",
    "serve": "serve",
}
FIGURE_NAMES: Mapping[str, str] = {
    "download": "download",
    "weights": "weights",
    "disk": "disk",
    "serve_memory": "memory to serve",
    "max_context": "longest context",
    "max_requests": "concurrent requests",
    "decode": "decode",
    "prefill": "prefill",
    "decode_ceiling": "limit of decode",
}
"""By the names that they have in documents."""
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
    found = row.figures
    return (
        row.label,
        "yes" if row.usable else "no",
        in_bytes(found.weights_bytes),
        f"{found.max_context:,}" if found.max_context else "none",
        f"{found.max_batch:,}" if found.max_batch else "none",
        span_of(found.decode) if found.decode else NOTHING,
        f"{found.ceiling:,.1f}" if found.ceiling else NOTHING,
    )


def conditions(terms: Terms) -> str:
    """Describe the common question of all formats."""
    asked = f"{requests(terms.batch)} of {terms.context:,} tokens, KV cache in {terms.kv_dtype.upper()}"
    return f"{terms.runtime}, {asked}"


def phase_cells(stage: Stage) -> tuple[str, ...]:
    """Write one phase, as `PHASE_HEADS` names it."""
    peak = stage.peak
    return (
        PHASE_NAMES[stage.phase],
        peak_words(peak),
        _share(peak),
        f"+{in_bytes(stage.kept)}" if stage.kept else "",
        span_words(stage.time) if stage.time else "",
        _RESTS_ON[peak.kind],
    )


def _share(peak: Peak) -> str:
    share = f"{peak.total / peak.available:.0%}"
    if peak.fits:
        return share
    if peak.least is None or not peak.may_fit:
        return f"over: {share}"
    return f"{peak.least / peak.available:.0%}-{share}"


def speed_heads(speeds: Speeds) -> tuple[str, ...]:
    """Head the table of speeds: one column for each context."""
    return ("tokens/s", *(f"{prefill.context:,} tokens" for prefill in speeds.prefill))


def speed_rows(speeds: Speeds) -> Iterable[tuple[str, ...]]:
    """Write decode by concurrent requests, its limit, and prefill."""
    contexts = len(speeds.prefill)
    for start in range(0, len(speeds.decode), contexts):
        cells = speeds.decode[start : start + contexts]
        yield (f"decode, {requests(cells[0].batch)}", *map(_cell, cells))
    yield ("limit, 1 request", *(short(prefill.ceiling) for prefill in speeds.prefill))
    yield ("prefill, 1 prompt", *(span_of(prefill.band) for prefill in speeds.prefill))


def figure_words(figure: Figure) -> str:
    """Write a figure with its conditions: `4.8 tok/s (3.8 to 5.7), 1 request at 4,096 tokens, …`."""
    return ", ".join(filter(None, (str(figure), figure.conditions)))


def draft_words(found: DraftSpeed) -> str:
    """Say what drafts make of one request: `5 per step, 11.0 tok/s (8.8-13.2) if 80% of them are accepted; …`."""
    speeds = ", ".join(f"{span_of(band)} tok/s if each is accepted with {share:.0%}" for share, band in found.speeds)
    pays = f"faster than none from {found.pays_from:.0%}" if found.pays_from is not None else "never faster than none"
    return f"{found.draft_length} per step: {speeds}; {pays}"


def span_of(band: Band) -> str:
    """Write a speed with its band: `5.0 (4.4-5.6)`."""
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
    return span_of(cell.decode) if cell.decode else "too large"
