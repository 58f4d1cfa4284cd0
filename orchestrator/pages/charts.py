"""Pictures as SVG: bars against a limit, ranges below a ceiling, steps over powers of two, shades, a curve.

Colours are not in the picture: matplotlib gets one placeholder for each role, which becomes a variable of the page's
style sheet, so that one picture serves light and dark screens and paper. Legends are the page's, too.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING

from orchestrator.errors import DependencyMissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 6
"""Colours that a picture can tell apart."""

SHADES = (1.0, 0.76, 0.54, 0.34, 0.17)
"""Opacities that a picture can tell apart."""

_INK, _FAINT, _LIMIT = "#a00001", "#a00002", "#a00003"
_ROLES: Mapping[str, str] = {_INK: "ink", _FAINT: "faint", _LIMIT: "limit"} | {
    f"#b0000{number}": f"series-{number}" for number in range(SERIES)
}
_WIDTH, _ROW, _FRAME = 4.6, 0.42, 1.15
"""Inches; at 72 units each a picture is 331 units wide, so its text stays readable on a phone."""
_TEXT = 10.5
_NOTE = 0.16
"""Of the longest bar, the room of what is written behind one."""


@dataclass(frozen=True)
class Picture:
    """What every picture says in words."""

    key: str
    """Unique on a page."""
    title: str
    description: str
    """What a reader hears who cannot see it."""


@dataclass(frozen=True)
class Stack:
    """One bar: a name, its parts in the order of the legend, and what is written behind it."""

    name: str
    parts: tuple[float, ...]
    note: str


@dataclass(frozen=True)
class Range:
    """From low to high with the expected value between, and the ceiling that it cannot pass."""

    name: str
    low: float
    expected: float
    high: float
    ceiling: float
    series: int
    dimmed: bool = False
    """It cannot run there."""


@dataclass(frozen=True)
class Line:
    """One line over powers of two; points at 0 are not drawn."""

    series: int
    points: tuple[tuple[int, int], ...]


def stacks(picture: Picture, bars: Sequence[Stack], limit: float, limit_note: str, unit: str) -> str:
    """Draw stacked bars, one below the other, against a limit.

    Raises:
        DependencyMissingError: matplotlib is not installed.
    """
    figure, axes = _figure(len(bars))
    longest = max([limit, *(sum(bar.parts) for bar in bars)])
    for place, bar in enumerate(bars):
        left = 0.0
        for series, part in enumerate(bar.parts):
            if part:
                axes.barh(place, part, left=left, height=0.6, color=f"#b0000{series}", linewidth=0)
                left += part
        crosses = left <= limit < left + longest * _NOTE
        start = (limit if crosses else left) + longest * 0.015
        axes.text(start, place, bar.note, va="center", ha="left", color=_INK, fontsize=_TEXT)
    axes.axvline(limit, color=_LIMIT, linewidth=1.6)
    _above(axes, limit, limit_note, longest * 1.22)
    axes.set_xlim(0, longest * 1.22)
    axes.set_xlabel(unit)
    _names(axes, [bar.name for bar in bars])
    return _svg(figure, picture)


def ranges(picture: Picture, bars: Sequence[Range], unit: str) -> str:
    """Draw ranges, one below the other, each with its ceiling.

    Raises:
        DependencyMissingError: matplotlib is not installed.
    """
    figure, axes = _figure(len(bars))
    longest = max(max(bar.high, bar.ceiling) for bar in bars)
    for place, bar in enumerate(bars):
        shade = 0.35 if bar.dimmed else 1.0
        color = f"#b0000{bar.series}"
        axes.barh(place, bar.high - bar.low, left=bar.low, height=0.42, color=color, alpha=0.4 * shade, linewidth=0)
        axes.plot([bar.expected], [place], "o", color=color, markersize=7, alpha=max(shade, 0.6))
        axes.plot([bar.ceiling] * 2, [place - 0.36, place + 0.36], color=_LIMIT, linewidth=2)
        end = max(bar.high, bar.ceiling) + longest * 0.02
        note = f"{bar.expected:.3g} of {bar.ceiling:.3g}"
        axes.text(end, place, note, va="center", ha="left", color=_INK, fontsize=_TEXT)
    axes.set_xlim(0, longest * 1.36)  # room for the notes
    axes.set_xlabel(unit)
    _names(axes, [bar.name for bar in bars])
    return _svg(figure, picture)


def steps(picture: Picture, lines: Sequence[Line], across: str, up: str, *, filled: bool = False) -> str:
    """Draw lines over powers of two in both directions; below each is what fits.

    Raises:
        DependencyMissingError: matplotlib is not installed.
    """
    figure, axes = _figure(5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for order, line in enumerate(lines):
        points = [point for point in line.points if point[1] > 0]
        if not points:
            continue
        places, values = zip(*points, strict=True)
        color = f"#b0000{line.series}"
        style = ("solid", (0, (5, 2)), (0, (2, 2)), (0, (1, 3)), "dashdot")[order % 5]
        axes.plot(places, values, color=color, linewidth=2.2, linestyle=style, marker="o", markersize=4.5)
        if filled:
            axes.fill_between(places, values, [1] * len(places), color=color, alpha=0.18, linewidth=0)
    _powers(axes, lines)
    axes.set_xlabel(across)
    axes.set_title(up, loc="left", fontsize=_TEXT, color=_INK)
    axes.grid(visible=True, color=_FAINT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure, picture)


def shades(
    picture: Picture, rows: Sequence[str], columns: int, cells: Mapping[tuple[int, int], int], across: str
) -> str:
    """Draw a table of shades; a cell without one stays empty.

    Args:
        picture: What it says in words.
        rows: Their names.
        columns: How many; they have numbers from 0.
        cells: By row and column, the shade: 0 is the darkest, `len(SHADES) - 1` the lightest.
        across: What the columns are.

    Raises:
        DependencyMissingError: matplotlib is not installed.
    """
    figure, axes = _figure(len(rows))
    for row in range(len(rows)):
        for shade, opacity in enumerate(SHADES):
            runs = _runs([column for column in range(columns) if cells.get((row, column)) == shade])
            axes.broken_barh(runs, (row - 0.46, 0.92), color="#b00000", alpha=opacity, linewidth=0)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_xlabel(across)
    _names(axes, rows)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.grid(visible=False)
    return _svg(figure, picture)


def _runs(columns: Sequence[int]) -> list[tuple[float, float]]:
    """Join neighbours: where each run begins, and how wide it is."""
    runs: list[tuple[float, float]] = []
    for column in columns:
        if runs and runs[-1][0] + runs[-1][1] == column - 0.5:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((column - 0.5, 1.0))
    return runs


def curve(
    picture: Picture, points: Sequence[tuple[float, float]], chosen: tuple[float, float], across: str, up: str
) -> str:
    """Draw what less of one thing costs of another, and the point that was chosen.

    Raises:
        DependencyMissingError: matplotlib is not installed.
    """
    figure, axes = _figure(5)
    places, values = zip(*points, strict=True)
    axes.plot(places, values, color="#b00000", linewidth=2.2)
    axes.plot([chosen[0]], [chosen[1]], "o", color=_LIMIT, markersize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(across)
    axes.set_title(up, loc="left", fontsize=_TEXT, color=_INK)
    axes.grid(visible=True, color=_FAINT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(nbins=6)
    return _svg(figure, picture)


def _powers(axes: Axes, lines: Sequence[Line]) -> None:
    drawn = [point for line in lines for point in line.points if point[1] > 0]
    places = sorted({place for place, _ in drawn}) or [1]
    axes.set_xticks(places, [str(place) for place in places])
    least = min((value for _, value in drawn), default=1024)
    most = max((value for _, value in drawn), default=1024)
    first, last = max(least.bit_length() - 1, 0), most.bit_length()
    ticks = [2**power for power in range(first, last + 1)]
    if len(ticks) > 8:  # noqa: PLR2004 - more do not fit above each other
        ticks = ticks[::2]
    axes.set_yticks(ticks, [_tokens(tick) for tick in ticks])
    axes.set_ylim(2 ** (first - 0.2), 2 ** (last + 0.2))
    axes.minorticks_off()


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count >= 1024 else str(count)  # noqa: PLR2004 - as context lengths are written


def insist_on_matplotlib() -> None:
    """Find out whether pictures can be drawn, without loading what draws them.

    Raises:
        DependencyMissingError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        message = "pictures need matplotlib, which is not installed"
        raise DependencyMissingError(message, hint=f"{sys.executable} -m pip install matplotlib")


def _figure(rows: int) -> tuple[Figure, Axes]:
    insist_on_matplotlib()
    from matplotlib import rc_context  # noqa: PLC0415 - optional, and loads slowly
    from matplotlib.figure import Figure  # noqa: PLC0415 - without pyplot, which keeps state

    with rc_context({"font.size": _TEXT, "axes.edgecolor": _FAINT}):
        figure = Figure(figsize=(_WIDTH, _FRAME + _ROW * rows), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.tick_params(colors=_INK, length=0, labelsize=_TEXT)
    axes.xaxis.label.set_color(_INK)
    return figure, axes


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)  # the first one is on top
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(visible=True, axis="x", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)


def _above(axes: Axes, place: float, note: str, end: float) -> None:
    """Write above the plot, towards the side where there is room."""
    right = place > end / 2
    axes.annotate(
        note,
        (place, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3 if right else -3, 3),
        textcoords="offset points",
        ha="right" if right else "left",
        va="bottom",
        color=_LIMIT,
        fontsize=_TEXT,
    )


def _svg(figure: Figure, picture: Picture) -> str:
    """Write a picture that can stand in a page: named, described, without a size or colours of its own."""
    from matplotlib import rc_context  # noqa: PLC0415 - optional, and loads slowly

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.key, "svg.id": picture.key}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    found = re.search(r'viewBox="([^"]+)"', text)
    assert found is not None  # noqa: S101 - matplotlib always writes one
    inner = text[text.index(">", text.index("<svg")) + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    for placeholder, role in _ROLES.items():
        inner = inner.replace(placeholder, f"var(--{role})")
    inner = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inner, flags=re.DOTALL)
    inner = re.sub(r" font-family: [^;\"]+;", "", inner)
    inner = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\1{picture.key}-", inner)
    title, description = f"{picture.key}-title", f"{picture.key}-description"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
        f' viewBox="{found.group(1)}" aria-labelledby="{title} {description}">\n'
        f'<title id="{title}">{escape(picture.title)}</title>\n'
        f'<desc id="{description}">{escape(picture.description)}</desc>{inner}'
    )
