"""Draws charts as SVG: stacked bars with a limit, ranges, lines over powers of two, a heat map, a curve.

Colours are variables of the page's style sheet, so that one chart serves light and dark screens and paper.
Lengths are in units of the chart, which is `_WIDTH` wide and as wide as its card on the page. Legends are the page's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Literal

from markupsafe import Markup

from orchestrator.values import frozen

SERIES = 6
"""Colours that a reader can tell apart."""

SHADES = (1.0, 0.76, 0.54, 0.34, 0.17)
"""Opacities that a reader can tell apart."""

_WIDTH = 330.0
_TEXT = 10.5
"""Height of letters; 10 pixels on a phone."""
_ROW = 30.0
_TOP = 20.0
"""Above the plot: one line of text."""
_BOTTOM = 36.0
"""Below the plot: the ticks' labels and the unit."""
_PLOT = 170.0
"""Height of a plot with two axes."""
_LEFT, _RIGHT = 42.0, _WIDTH - 14.0
"""Its sides; labels of up to five letters stand left of it."""
_GAP = 5.0
_DASHES = ("", "6 3", "3 3", "1 4", "8 3 2 3")
_LONGEST_NAME = 20

Anchor = Literal["start", "middle", "end"]


@frozen
class Picture:
    """What a chart says in words."""

    key: str
    """Unique on a page."""
    title: str
    description: str
    """Read aloud to a reader who cannot see the chart."""


@frozen
class Stack:
    """One bar: a name, its parts in the order of the legend, and the text behind it."""

    name: str
    parts: tuple[float, ...]
    note: str


@frozen
class Range:
    """From low to high with the expected value between, and the ceiling that it cannot pass."""

    name: str
    low: float
    expected: float
    high: float
    ceiling: float
    dimmed: bool = False
    """It cannot run there."""


Line = tuple[tuple[int, int], ...]
"""Points of one line over powers of two; points at 0 are not drawn."""


@frozen
class _Scale:
    """Maps values from `first` to `last` to units from `start` to `end`."""

    first: float
    last: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Give the place of a value."""
        return self.start + (value - self.first) / ((self.last - self.first) or 1.0) * (self.end - self.start)


def stacks(picture: Picture, bars: Sequence[Stack], limit: float, limit_note: str, unit: str) -> Markup:
    """Draw stacked bars, one below the other, against a limit."""
    longest = max([limit, *(sum(bar.parts) for bar in bars)])
    scale = _beside([bar.name for bar in bars], longest, max((_wide(bar.note) for bar in bars), default=0.0))
    marks = [*_rows([bar.name for bar in bars], scale, unit)]
    for row, bar in enumerate(bars):
        left = 0.0
        for series, part in enumerate(bar.parts):
            if part:
                marks.append(_bar(scale, row, left, left + part, f"series-{series}", thick=18))
                left += part
        behind, line = scale.at(left) + _GAP, scale.at(limit)
        crossed = behind - _GAP <= line < behind + _wide(bar.note)
        marks.append(_text(line + _GAP if crossed else behind, _middle(row), bar.note))
    over = scale.at(limit)
    marks.append(_upright(over, _TOP, _TOP + _ROW * len(bars), "limit", 1.8))
    marks.append(_text(over, _TOP - 9, limit_note, "end" if over > _WIDTH / 2 else "start", "limit"))
    return _svg(picture, marks, _TOP + _ROW * len(bars) + _BOTTOM)


def ranges(picture: Picture, bars: Sequence[Range], unit: str) -> Markup:
    """Draw ranges, one below the other, each with its ceiling."""
    longest = max((max(bar.high, bar.ceiling) for bar in bars), default=1.0)
    notes = [f"{bar.expected:,.1f} of {bar.ceiling:,.1f}" for bar in bars]
    scale = _beside([bar.name for bar in bars], longest, max(map(_wide, notes), default=0.0))
    marks = [*_rows([bar.name for bar in bars], scale, unit)]
    for row, (bar, note) in enumerate(zip(bars, notes, strict=True)):
        middle, over = _middle(row), scale.at(bar.ceiling)
        marks += [
            _bar(scale, row, bar.low, bar.high, "series-0", thick=13, opacity=0.14 if bar.dimmed else 0.4),
            _dot(scale.at(bar.expected), middle, "series-0", 3.8, opacity=0.6 if bar.dimmed else 1.0),
            _upright(over, middle - 11, middle + 11, "limit", 2),
            _text(scale.at(max(bar.high, bar.ceiling)) + _GAP, middle, note),
        ]
    return _svg(picture, marks, _TOP + _ROW * len(bars) + _BOTTOM, top=_TOP - 4)


def steps(picture: Picture, lines: Sequence[Line], across: str, up: str, *, filled: bool = False) -> Markup:
    """Draw lines over powers of two in both directions; what lies below a line fits."""
    shown = [[(math.log2(place), math.log2(value)) for place, value in line if value > 0] for line in lines]
    drawn = [point for line in shown for point in line] or [(0.0, 10.0)]
    places = sorted({place for place, _ in drawn})
    low, high = math.floor(min(value for _, value in drawn)), math.ceil(max(value for _, value in drawn)) or 1
    powers = range(low, high + 1, 1 if high - low <= 8 else 2)  # noqa: PLR2004 - more do not fit above each other
    x, y = _axes((places[0], places[-1]), (low - 0.2, high + 0.2))
    marks = [
        *_grid(x, [(place, f"{2**place:g}") for place in places], across),
        *_heights(y, [(power, _tokens(2**power)) for power in powers], up),
    ]
    for series, line in enumerate(shown):
        spots = [(x.at(place), y.at(value)) for place, value in line]
        if filled and spots:
            marks.append(_area(spots, y.start, f"series-{series % SERIES}"))
        marks.append(_path(spots, f"series-{series % SERIES}", _DASHES[series % len(_DASHES)]))
        marks += [_dot(*spot, f"series-{series % SERIES}", 2.6) for spot in spots]
    return _svg(picture, marks, _TOP + _PLOT + _BOTTOM)


def shades(
    picture: Picture, rows: Sequence[str], columns: int, cells: Mapping[tuple[int, int], int], across: str
) -> Markup:
    """Draw a heat map; a cell without a shade stays empty.

    Args:
        picture: What it says in words.
        rows: Their names.
        columns: How many; they have numbers from 0.
        cells: By row and column, the shade: 0 is the darkest, `len(SHADES) - 1` the lightest.
        across: What the columns are.
    """
    scale = _beside(rows, columns, 0.0)
    width = scale.at(1) - scale.at(0)
    numbers = [(column + 0.5, str(int(column))) for column in _ticks(columns - 1) if column == int(column)]
    marks = [*_names(rows, scale.start), *_grid(scale, numbers, across, bottom=_TOP + _ROW * len(rows), lined=False)]
    for shade, opacity in enumerate(SHADES):
        found = [place for place, its in cells.items() if its == shade]
        boxes = "".join(f"M{scale.at(c):.2f} {_middle(r) - 14:.0f}h{width:.2f}v28h{-width:.2f}z" for r, c in found)
        if boxes:
            marks.append(f'<path d="{boxes}" fill="var(--series-0)" opacity="{opacity}" shape-rendering="crispEdges"/>')
    return _svg(picture, marks, _TOP + _ROW * len(rows) + _BOTTOM, top=_TOP - 4)


def curve(
    picture: Picture,
    points: Sequence[tuple[float, float]],
    chosen: tuple[float, float],
    across: str,
    up: str,
    *,
    dotted: bool = False,
) -> Markup:
    """Draw what less of one thing costs of another, and the point that was chosen; `dotted`: the others as well."""
    first, last = min(place for place, _ in points), max(place for place, _ in points)
    most = max(value for _, value in points)
    x, y = _axes((first, last), (0.0, most or 1.0))
    marks = [
        *_grid(x, [(tick, f"{tick:g}") for tick in _ticks(last, first)], across),
        *_heights(y, [(tick, f"{tick:.3g}") for tick in _ticks(most)], up),
        _path([(x.at(place), y.at(value)) for place, value in points], "series-0"),
        *(_dot(x.at(place), y.at(value), "series-0", 2.6) for place, value in points if dotted),
        _dot(x.at(chosen[0]), y.at(chosen[1]), "limit", 4),
    ]
    return _svg(picture, marks, _TOP + _PLOT + _BOTTOM)


def over_time(
    picture: Picture,
    points: Sequence[tuple[float, float]],
    levels: Sequence[tuple[float, str, str]],
    across: str,
    up: str,
) -> Markup:
    """Draw a value over time, both from 0 on, and levels: a value, the colour and the dashes of each."""
    most = max([*(value for _, value in points), *(value for value, _, _ in levels)])
    x, y = _axes((0.0, points[-1][0]), (0.0, most))
    spots = [(x.at(place), y.at(value)) for place, value in points]
    marks = [
        *_grid(x, [(tick, f"{tick:g}") for tick in _ticks(x.last)], across),
        *_heights(y, [(tick, f"{tick:.3g}") for tick in _ticks(y.last)], up),
        _area(spots, y.start, "series-0"),
        _path(spots, "series-0"),
        *(_path([(_LEFT, y.at(value)), (_RIGHT, y.at(value))], color, dashes) for value, color, dashes in levels),
    ]
    return _svg(picture, marks, _TOP + _PLOT + _BOTTOM)


def _ticks(last: float, first: float = 0.0, most: int = 6) -> list[float]:
    """Choose at most `most` round numbers from first to last: multiples of 1, 2 or 5 times a power of ten."""
    if last <= first:
        return [first]
    rough = (last - first) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
    return [round(number * step, 12) for number in range(math.ceil(first / step), math.floor(last / step + 1e-9) + 1)]


def _tokens(count: float) -> str:
    return f"{count / 1024:g}k" if count >= 1024 else f"{count:g}"  # noqa: PLR2004 - as context lengths are written


def _wide(text: str) -> float:
    """Estimate the width of a text in the widest of the page's fonts."""
    return sum(0.74 if letter.isupper() else 0.63 for letter in text) * _TEXT


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _middle(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)


def _beside(names: Sequence[str], most: float, after: float) -> _Scale:
    """Lay a scale from 0 to `most` beside names; keep `after` units behind it for notes."""
    start = max((_wide(_cut(name)) for name in names), default=0.0) + 2 * _GAP
    return _Scale(0.0, most, start, _WIDTH - after - 2 * _GAP)


def _axes(across: tuple[float, float], up: tuple[float, float]) -> tuple[_Scale, _Scale]:
    """Lay the scales of a plot with two axes."""
    return _Scale(*across, _LEFT, _RIGHT), _Scale(*up, _TOP + _PLOT, _TOP)


def _rows(names: Sequence[str], scale: _Scale, unit: str) -> Iterator[str]:
    """Draw what rows of bars stand on: their names, and a line and number at each tick."""
    yield from _names(names, scale.start)
    ticks = [(tick, f"{tick:g}") for tick in _ticks(scale.last, most=5)]
    yield from _grid(scale, ticks, unit, bottom=_TOP + _ROW * len(names))


def _names(names: Sequence[str], start: float) -> Iterator[str]:
    for row, name in enumerate(names):
        yield _text(start - _GAP, _middle(row), _cut(name), "end")


def _grid(
    scale: _Scale,
    ticks: Iterable[tuple[float, str]],
    unit: str,
    *,
    bottom: float = _TOP + _PLOT,
    lined: bool = True,
) -> Iterator[str]:
    """Draw a line and a label at each tick of the lower axis, and the unit below."""
    for tick, label in ticks:
        if lined:
            yield _upright(scale.at(tick), _TOP, bottom, "faint", 0.8)
        yield _text(scale.at(tick), bottom + 10, label, "middle")
    yield _text((scale.start + scale.end) / 2, bottom + 26, unit, "middle", "soft")


def _heights(scale: _Scale, ticks: Iterable[tuple[float, str]], unit: str) -> Iterator[str]:
    """Draw a line and a label at each tick of the upright axis, and the unit above."""
    for tick, label in ticks:
        yield f'<path d="M{_LEFT:g} {scale.at(tick):.1f}H{_RIGHT:g}" stroke="var(--faint)" stroke-width="0.8"/>'
        yield _text(_LEFT - _GAP, scale.at(tick), label, "end")
    yield _text(0, 5, unit, "start", "soft")


def _bar(scale: _Scale, row: int, low: float, high: float, color: str, *, thick: float, opacity: float = 1.0) -> str:
    return (
        f'<rect x="{scale.at(low):.1f}" y="{_middle(row) - thick / 2:.1f}"'
        f' width="{scale.at(high) - scale.at(low):.1f}" height="{thick:g}" fill="var(--{color})" opacity="{opacity}"/>'
    )


def _dot(x: float, y: float, color: str, radius: float, opacity: float = 1.0) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="var(--{color})" opacity="{opacity}"/>'


def _upright(x: float, top: float, bottom: float, color: str, width: float) -> str:
    return f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="var(--{color})" stroke-width="{width}"/>'


def _path(spots: Sequence[tuple[float, float]], color: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{_points(spots)}" fill="none" stroke="var(--{color})" stroke-width="2.2"{dashed}/>'


def _area(spots: Sequence[tuple[float, float]], bottom: float, color: str) -> str:
    ends = ((spots[-1][0], bottom), (spots[0][0], bottom))
    return f'<polygon points="{_points((*spots, *ends))}" fill="var(--{color})" opacity="0.18"/>'


def _points(spots: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)


def _text(x: float, y: float, words: str, anchor: Anchor = "start", color: str = "ink") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central"'
        f' fill="var(--{color})">{escape(words)}</text>'
    )


def _svg(picture: Picture, marks: Iterable[str], bottom: float, *, top: float = 0.0) -> Markup:
    """Write a chart that can stand in a page: named, described, without a size of its own.

    Args:
        picture: Its words.
        marks: What is drawn.
        bottom: Where it ends.
        top: Where it begins: below the line of text above the plot if there is none.
    """
    title, description = f"{picture.key}-title", f"{picture.key}-description"
    return Markup(  # noqa: S704 - made here; its words are escaped
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 {top:g} {_WIDTH:g} {bottom - top:g}"'
        f' font-size="{_TEXT}" aria-labelledby="{title} {description}">\n'
        f'<title id="{title}">{escape(picture.title)}</title>\n'
        f'<desc id="{description}">{escape(picture.description)}</desc>\n' + "\n".join(marks) + "\n</svg>"
    )
