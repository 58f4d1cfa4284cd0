"""Renders one self-contained HTML page for a comparison or a plan: no script, no network, dark mode and print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from markupsafe import Markup

from orchestrator import __version__
from orchestrator.pages.advice import advice
from orchestrator.pages.cells import (
    MEASURED_HEADS,
    NOTHING,
    PHASE_HEADS,
    USER_HEADS,
    conditions,
    format_cells,
    phase_cells,
    phase_name,
    power_words,
    speed_heads,
    speed_rows,
    user_rows,
    users_words,
)
from orchestrator.pages.charts import SERIES, SHADES, Picture, Range, Stack, curve, ranges, stacks, steps
from orchestrator.pages.draft_sentences import draft_sentences
from orchestrator.planner.comparison import Comparison, Row
from orchestrator.planner.drafts import Drafts
from orchestrator.planner.estimate import Speeds, Stage
from orchestrator.planner.figures import requests, workload_words
from orchestrator.planner.phases import PARTS, Part
from orchestrator.planner.serving import gpus_of
from orchestrator.planner.users import Users
from orchestrator.values import frozen

_GB = 1e9


@frozen
class Key:
    """One entry of a legend."""

    label: str
    role: str
    """The style sheet's name of its colour."""
    kind: str = "box"
    """`box`, `dot`, `mark` (a ceiling or limit), `pale` (a band) or `shade-0` to `shade-4`."""


@frozen
class Chart:
    """A picture with its words."""

    title: str
    svg: Markup
    keys: tuple[Key, ...]
    note: str


@frozen
class Notice:
    """A refusal or a warning."""

    code: str
    message: str
    hint: str


@frozen
class PlanContents:
    """What a plan's page says besides its pictures."""

    name: str
    description: str
    target: str
    verdict: str
    tone: Literal["yes", "maybe", "no"]
    """The colour of the verdict: green, amber or red."""
    notices: tuple[Notice, ...]
    figures: tuple[tuple[str, str, str], ...]
    """What, how much, and how it was calculated."""
    stages: tuple[Stage, ...]
    speeds: Speeds | None
    drafts: str | None
    """One request with the recipe's own drafts."""
    available: float
    """Bytes of one GPU's memory that are available to a model."""
    has: str
    """What the target has, in a sentence."""
    gpus: int = 1
    """They share the model."""
    format: str | None = None
    """The recipe's own, by the name that it has in the comparison."""
    users: Users | None = None
    """What users of the workload see."""
    measured: tuple[tuple[str, ...], ...] = ()
    """Rows of `MEASURED_HEADS`, the oldest first."""


def comparison_page(comparison: Comparison, drafts: Drafts | None) -> str:
    """Write the page of a comparison."""
    terms = comparison.terms
    charts = [_memory_of_formats(comparison)]
    if terms.target.gpu is not None:
        charts += [_speeds(comparison), *_reach(comparison, comparison.rows)]
    return render(
        "compare.html.j2",
        title=f"{comparison.subject.name} on {terms.target_name}",
        comparison=comparison,
        conditions=conditions(comparison.terms),
        rows=[_cells(comparison, row) for row in comparison.rows],
        drafts=draft_sentences(drafts) if drafts else (),
        charts=charts,
    )


def plan_page(contents: PlanContents, comparison: Comparison | None) -> str:
    """Write the page of a plan; without a comparison, where the model's sizes are not known, only with its memory."""
    charts = [_memory_of_phases(contents)] if contents.stages else []
    if contents.users is not None and len(contents.users.sweep) > 1:  # one point is no curve
        charts.append(users_chart(contents.users))
    if comparison is not None and comparison.terms.target.gpu is not None:
        own = [row for row in comparison.rows if row.format == contents.format]
        charts += [_speeds(comparison), *_reach(comparison, own or comparison.rows)]
    return render(
        "plan.html.j2",
        title=f"{contents.name} on {contents.target}",
        contents=contents,
        charts=charts,
        phase_heads=PHASE_HEADS,
        measured_heads=MEASURED_HEADS,
        phases=[phase_cells(stage) for stage in contents.stages],
        reasons=[(phase_name(stage), reason) for stage in contents.stages for reason in _reasons(stage)],
        speed_heads=speed_heads(contents.speeds) if contents.speeds else (),
        speeds=list(speed_rows(contents.speeds)) if contents.speeds else (),
        user_heads=USER_HEADS,
        user_rows=list(user_rows(contents.users.sweep, contents.users.knee)) if contents.users else (),
        user_words=[*users_words(contents.users), *power_words(contents.users)] if contents.users else (),
    )


def _reasons(stage: Stage) -> Iterator[str]:
    yield f"memory: {stage.peak.basis}"
    if stage.time:
        yield f"time: {stage.time.basis}"


def _memory_of_formats(comparison: Comparison) -> Chart:
    terms = comparison.terms
    title = f"Memory when serving {requests(terms.batch)} of {terms.context:,} tokens"
    held = {row.label: row.figures.peaks["serve"].parts for row in comparison.rows}
    return _stacked(title, held, comparison.available_bytes, terms.target_name, gpus_of(terms.target))


def _memory_of_phases(contents: PlanContents) -> Chart:
    held = {phase_name(stage): stage.peak.parts for stage in contents.stages}
    return _stacked("Memory at the peak of each phase", held, contents.available, contents.target, contents.gpus)


def _stacked(title: str, held: Mapping[str, Mapping[Part, float]], available: float, target: str, gpus: int) -> Chart:
    limit = available / _GB
    bars = [
        Stack(name, tuple(parts.get(label, 0.0) / _GB for label in PARTS), f"{sum(parts.values()) / _GB:.1f}")
        for name, parts in held.items()
    ]
    said = "; ".join(f"{bar.name} {bar.note} GB" for bar in bars)
    picture = Picture("memory", f"{title}, in GB", f"Stacked bars against the limit of {limit:.1f} GB: {said}.")
    used = {label for parts in held.values() for label, size in parts.items() if size}
    keys = (
        *(Key(label, f"series-{number}") for number, label in enumerate(PARTS) if label in used),
        Key(f"available memory of {target}", "limit", "mark"),
    )
    svg = stacks(picture, bars, limit, f"limit {limit:.1f} GB", "GB on each GPU" if gpus > 1 else "GB")
    return Chart(title, svg, keys, "")


def _speeds(comparison: Comparison) -> Chart:
    terms = comparison.terms
    bars = tuple(_ranges(comparison.rows))
    said = "; ".join(
        f"{bar.name} {bar.expected:.3g} ({bar.low:.3g} to {bar.high:.3g}, limit {bar.ceiling:.3g})" for bar in bars
    )
    picture = Picture(
        "speed",
        f"Decode speed of {workload_words(terms.batch, terms.context, terms.output_tokens)}",
        f"Expected decode speed with its band against the limit that bandwidth sets, in tokens per second: {said}.",
    )
    keys = (
        Key("expected", "series-0", "dot"),
        Key("band", "series-0", "pale"),
        Key("limit of the bandwidth: weights and cache read once per step, nothing else", "limit", "mark"),
    )
    dimmed = [row.label for row in comparison.rows if not row.usable]
    note = "The numbers: expected, of the limit." + (f" Pale: {', '.join(dimmed)} would not fit." if dimmed else "")
    svg = ranges(picture, bars, "tokens per second, decoding")
    return Chart(picture.title, svg, keys, note)


def users_chart(users: Users) -> Chart:
    """Draw the tokens per second of all users over the time that each waits for a token; the knee is marked."""
    best = users.knee or users.queue
    points = [(1e3 * queue.per_token.p50, queue.tokens_per_second) for queue in users.sweep]
    said = "; ".join(
        f"{queue.users:,} users {queue.tokens_per_second:.3g} tokens per second, {1e3 * queue.per_token.p50:.3g} ms"
        for queue in users.sweep
    )
    each = f"{users.input_tokens:,} tokens in and {users.output_tokens:,} out"
    title = "Throughput against latency, by the number of users"
    picture = Picture("users", title, f"Tokens per second of all users over the time per token, {each}: {said}.")
    knee = (1e3 * best.per_token.p50, best.tokens_per_second)
    svg = curve(picture, points, knee, "ms per token", "tokens/s in all", dotted=True)
    keys = (Key("1, 2, 4, … users", "series-0", "dot"), Key(f"the knee: {best.users:,} users", "limit", "dot"))
    note = f"{each[0].upper()}{each[1:]}. Beyond the knee, more users cost more time than they bring tokens."
    return Chart(title, svg, keys, note)


def _ranges(rows: Sequence[Row]) -> Iterator[Range]:
    for row in rows:
        band, ceiling = row.figures.decode, row.figures.ceiling
        if band is not None and ceiling is not None:
            yield Range(row.label, band.low, band.expected, band.high, ceiling, dimmed=not row.usable)


def _reach(comparison: Comparison, rows: Sequence[Row]) -> Iterator[Chart]:
    """Draw the longest context over the concurrent requests, if any fits; formats of the same reach share a line."""
    alike: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for row in rows:
        points = tuple((reach.batch, reach.context) for reach in row.reaches)
        alike.setdefault(points, []).append(row.label)
    drawn = [(points, labels) for points, labels in alike.items() if any(context for _, context in points)]
    nowhere = [label for points, labels in alike.items() if not any(c for _, c in points) for label in labels]
    if not drawn:
        return
    lines = [points for points, _ in drawn]
    said = "; ".join(f"{', '.join(labels)}: {_said(points)}" for points, labels in drawn)
    picture = Picture(
        "reach",
        "Longest context by concurrent requests",
        f"Tokens of each request that fit, by how many requests are served together: {said}.",
    )
    keys = tuple(Key(", ".join(labels), f"series-{number % SERIES}") for number, (_, labels) in enumerate(drawn))
    note = f"Not even one request fits: {', '.join(nowhere)}." if nowhere else ""
    kv_dtype = comparison.terms.kv_dtype.upper()
    more = f"By memory alone, KV cache in {kv_dtype}; what lies below a line fits."
    svg = steps(picture, lines, "concurrent requests", "tokens of each request", filled=len(lines) == 1)
    yield Chart(picture.title, svg, keys, f"{more} {note}".strip())


def _said(points: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{batch} of {context:,}" for batch, context in points if context)


def _cells(comparison: Comparison, row: Row) -> dict[str, object]:
    label, _, weights, context, batch, decode, ceiling, first = format_cells(row)
    found = row.figures
    return {
        "label": label,
        "fits": row.usable,
        "weights": weights,
        "context": context,
        "batch": batch,
        "decode": decode,
        "ceiling": ceiling,
        "first": first,
        "prefill": f"{found.prefill.expected:,.0f}" if found.prefill else NOTHING,
        "recipes": ", ".join(row.recipes),
        "advice": advice(comparison, row),
        "basis": found.basis,
        "limits": found.limits,
    }


def render(template: str, **values: object) -> str:
    """Fill in one of the pages' templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only for a page

    environment = Environment(
        loader=PackageLoader("orchestrator.pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
    )
    return environment.get_template(template).render(version=__version__, shades=SHADES, series=SERIES, **values)
