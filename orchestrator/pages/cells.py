"""Formats the table cells that the screen, Markdown and pages share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.planner.draft_speed import DraftSpeed
from orchestrator.planner.duration import Span
from orchestrator.planner.estimate import Cell, Speeds, Stage
from orchestrator.planner.figures import Figure, seconds_in_words, users_in_words, workload_words
from orchestrator.planner.phases import Peak, Phase, peak_words
from orchestrator.planner.queueing import Percentiles, Queue, Targets
from orchestrator.planner.speed import Band
from orchestrator.planner.users import Users

if TYPE_CHECKING:
    from orchestrator.planner.comparison import Comparison, Row, Terms
from orchestrator.units import in_bytes

NOTHING = "-"
"""The text of an empty cell."""

FORMAT_HEADS = ("format", "fits", "weights", "max context", "max batch", "decode tok/s", "limit", "first token")
USER_HEADS = ("users", "tok/s in all", "each", "first token", "95 %", "per token", "95 %")
MEASURED_HEADS = ("date", "users", "in", "out", "predicted", "measured", "±")
PHASE_HEADS = ("phase", "memory", "share used", "disk", "time", "memory rests on")

_PHASE_NAMES: Mapping[Phase, str] = {
    "quantize": "quantize",
    "evaluate": "compare",
    "convert": "convert",
    "engine_build": "build engine",
    "load": "load",
    "serve": "serve",
}
FIGURE_NAMES: Mapping[str, str] = {
    "download": "source weights",
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
    "bound": "a lower bound",
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
        seconds_in_words(found.queue.first_token.p50) if found.queue else NOTHING,
    )


def user_rows(queues: Iterable[Queue], best: Queue | None) -> Iterator[tuple[str, ...]]:
    """Write what users see, one row for each number of them, as `USER_HEADS` names it; the knee is marked."""
    for queue in queues:
        yield (
            f"{queue.users:,}{' *' if queue == best else ''}",
            short(queue.tokens_per_second),
            short(queue.tokens_per_second_of_each),
            *(seconds_in_words(found) for found in (queue.first_token.p50, queue.first_token.p95)),
            *(seconds_in_words(found) for found in (queue.per_token.p50, queue.per_token.p95)),
        )


def users_words(users: Users) -> Iterator[str]:
    """Say what users see, and how many fit within the targets."""
    queue, context = users.queue, users.input_tokens + users.output_tokens
    first, each = queue.first_token, queue.per_token
    own = f", {short(queue.tokens_per_second_of_each)} each" if queue.users > 1 else ""
    yield (
        f"{workload_words(queue.users, context, users.output_tokens)}: {span_of(users.decode)} tokens/s{own};"
        f" first token {_percentiles(first)}, then {_percentiles(each)} per token"
    )
    if users.gains:
        gains = ", ".join(f"{gain:.2f} with {users_in_words(count)}" for count, gain in users.gains)
        yield f"drafts: times the speed without: {gains}"
    if users.within is not None:
        yield within_words(users.within, users.targets)
    yield from users.limits


def _percentiles(found: Percentiles) -> str:
    half, high = seconds_in_words(found.p50), seconds_in_words(found.p95)
    return half if half == high else f"{half} (95 %: {high})"


def power_words(users: Users) -> Iterator[str]:
    """Say what the energy makes of it, if the vendor states the power."""
    if users.watts:
        each = users.decode.expected / users.watts
        yield f"power: at most {users.watts:,.0f} W, so at least {each:.3g} tokens per joule"


def within_words(users: int, targets: Targets) -> str:
    """Say how many users fit within targets."""
    wanted = [
        f"{name} within {seconds_in_words(limit)}"
        for name, limit in (("the first token", targets.first_token), ("each further token", targets.per_token))
        if limit is not None
    ]
    who = users_in_words(users) if users else "not even one user"
    return f"{' and '.join(wanted)} for 95 of 100 requests: {who}"


def conditions(terms: Terms) -> str:
    """Describe the common question of all formats."""
    users = workload_words(terms.batch, terms.context, terms.output_tokens)
    asked = f"{terms.rate:.3g} requests/s of {users.partition(', ')[2]}" if terms.rate is not None else users
    drafter = terms.drafter
    drafts = f", {drafter.tokens} drafts by {drafter.kind}, {drafter.acceptance:.0%} accepted" if drafter else ""
    return f"{terms.runtime}, {asked}, KV cache in {terms.kv_dtype.upper()}{drafts}"


def users_sentences(comparison: Comparison) -> Iterator[str]:
    """Say for each format how many users fit within the targets, if there are any."""
    targets = comparison.terms.targets
    for row in comparison.rows:
        if targets is not None and row.users is not None and row.usable:
            yield f"{row.label}: {within_words(row.users, targets)}"


def phase_name(stage: Stage) -> str:
    """Name a phase for people: a model is downloaded, generated or imported."""
    return _PHASE_NAMES.get(stage.phase, stage.step)


def phase_cells(stage: Stage) -> tuple[str, ...]:
    """Write one phase, as `PHASE_HEADS` names it."""
    peak = stage.peak
    return (
        phase_name(stage),
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
        yield (f"decode, {users_in_words(cells[0].batch)}", *map(_cell, cells))
    yield ("limit, 1 user", *(short(prefill.ceiling) for prefill in speeds.prefill))
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
