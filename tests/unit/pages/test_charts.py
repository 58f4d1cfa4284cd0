"""Charts: named and described for who cannot see them, without colours or sizes of their own, drawn to scale."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from orchestrator.pages.charts import Picture, Range, Stack, curve, ranges, shades, stacks, steps

SVG = "{http://www.w3.org/2000/svg}"
PICTURE = Picture("one", "A <title> & more", "What it shows")
STACK = stacks(PICTURE, [Stack("load", (40.0, 5.0), "45"), Stack("serve", (40.0, 77.0), "117")], 117.8, "limit", "GB")
RANGE = ranges(PICTURE, [Range("NVFP4", 4.0, 5.0, 6.0, 6.7), Range("BF16", 1, 1.5, 2, 1.9, dimmed=True)], "tok/s")
LINE = steps(PICTURE, [((1, 131072), (2, 65536), (4, 0)), ()], "requests", "tokens", filled=True)
NOTHING = steps(PICTURE, [], "requests", "tokens")
MAP = shades(PICTURE, ["q_proj", "k_proj"], 3, {(0, 0): 0, (0, 2): 4, (1, 1): 0}, "layer")
CURVE = curve(PICTURE, [(4.5, 0.9), (8.0, 0.2), (16.0, 0.0)], (8.0, 0.2), "bits", "error")
DRAWN = {"stacks": STACK, "ranges": RANGE, "steps": LINE, "empty": NOTHING, "map": MAP, "curve": CURVE}
every_chart = pytest.mark.parametrize("svg", DRAWN.values(), ids=DRAWN)


def _all(svg: str, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(f"{SVG}{tag}"))  # noqa: S314 - our own


def _number(element: ET.Element, name: str) -> float:
    return float(element.get(name, "nan"))


def _limits(svg: str) -> list[float]:
    drawn = [path.get("d", "") for path in _all(svg, "path") if path.get("stroke") == "var(--limit)"]
    return [float(line[1:].split()[0]) for line in drawn]


def _words(svg: str) -> dict[str, ET.Element]:
    return {text.text or "": text for text in _all(svg, "text")}


@every_chart
def test_a_picture_is_xml_with_a_title_and_a_description(svg: str) -> None:
    root = ET.fromstring(svg)  # noqa: S314 - our own
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert description is not None
    assert title.text == PICTURE.title
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert root.get("role") == "img"
    assert root.get("width") is None


@every_chart
def test_colours_are_the_pages(svg: str) -> None:
    assert not re.search("#[0-9a-f]{6}", svg)
    assert "var(--ink)" in svg


def test_the_same_picture_is_the_same_bytes() -> None:
    again = ranges(PICTURE, [Range("NVFP4", 4.0, 5.0, 6.0, 6.7)], "tok/s")
    assert again == ranges(PICTURE, [Range("NVFP4", 4.0, 5.0, 6.0, 6.7)], "tok/s")


def test_ids_of_two_pictures_differ() -> None:
    other = stacks(Picture("two", "t", "d"), [Stack("load", (1.0,), "1")], 2, "limit", "GB")
    first, second = (set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (STACK, other))
    assert first.isdisjoint(second)


def test_the_units_are_written_on_the_axes() -> None:
    assert ">GB<" in STACK
    assert ">tok/s<" in RANGE
    assert ">tokens<" in LINE
    assert ">layer<" in MAP
    assert ">bits<" in CURVE


def test_a_bar_is_as_long_as_what_it_shows() -> None:
    widths = [_number(bar, "width") for bar in _all(STACK, "rect")]
    assert len(widths) == 4
    assert widths[0] == widths[2]
    assert widths[0] / widths[1] == pytest.approx(40 / 5, rel=0.02)
    assert widths[3] / widths[2] == pytest.approx(77 / 40, rel=0.02)


@pytest.mark.parametrize("total", [20.0, 90.0, 99.0, 100.0, 101.0, 130.0])
def test_the_text_behind_a_bar_never_lies_on_the_limit(total: float) -> None:
    svg = stacks(PICTURE, [Stack("load", (total,), "12345")], 100.0, "limit", "GB")
    note = _number(_words(svg)["12345"], "x")
    limit = _limits(svg)[0]
    assert note > limit or note + 5 * 0.63 * 10.5 < limit


def test_the_expected_speed_lies_in_its_band_and_the_ceiling_right_of_it() -> None:
    band, dot = _all(RANGE, "rect")[0], _all(RANGE, "circle")[0]
    start, width = _number(band, "x"), _number(band, "width")
    assert _number(dot, "cx") == pytest.approx(start + width / 2, abs=0.2)
    first, second = _limits(RANGE)
    assert first > start + width
    assert second < first


def test_halving_is_the_same_way_down_wherever_it_is() -> None:
    svg = steps(PICTURE, [((1, 4096), (2, 2048), (4, 1024), (8, 512))], "requests", "tokens")
    heights = [_number(dot, "cy") for dot in _all(svg, "circle")]
    ways = [below - above for above, below in pairwise(heights)]
    assert ways == pytest.approx([ways[0]] * 3, abs=0.11)
    assert ways[0] > 0


def test_a_point_that_does_not_fit_is_not_drawn() -> None:
    assert len(_all(LINE, "circle")) == 2
    assert not _all(NOTHING, "circle")


def test_lines_are_told_apart_without_colour() -> None:
    svg = steps(PICTURE, [((1, 8), (2, 4)), ((1, 4), (2, 2)), ((1, 2), (2, 1))], "requests", "tokens")
    assert len({line.get("stroke-dasharray") for line in _all(svg, "polyline")}) == 3


def test_a_heat_map_has_one_box_for_each_cell_and_none_for_an_empty_one() -> None:
    paths = {path.get("opacity"): path.get("d", "") for path in _all(MAP, "path") if path.get("opacity")}
    assert {opacity: boxes.count("M") for opacity, boxes in paths.items()} == {"1.0": 2, "0.17": 1}


@pytest.mark.parametrize(("columns", "labels"), [(1, ["0"]), (3, ["0", "1", "2"]), (80, ["0", "20", "40", "60"])])
def test_columns_are_numbered_by_whole_numbers(columns: int, labels: list[str]) -> None:
    svg = shades(PICTURE, ["q"], columns, {(0, 0): 0}, "layer")
    assert [word for word in _words(svg) if word.isdigit()] == labels


@pytest.mark.parametrize("most", [0.003, 0.7, 1.0, 9.99, 117.8, 5e6])
def test_ticks_are_few_and_lie_inside(most: float) -> None:
    svg = curve(PICTURE, [(0.0, most), (most, 0.0)], (0.0, most), "bits", "error")
    across = [text for text in _all(svg, "text") if text.get("text-anchor") == "middle" and text.text != "bits"]
    assert 2 <= len(across) <= 6
    assert all(42 <= _number(text, "x") <= 330 for text in across)


def test_a_long_name_keeps_its_end() -> None:
    svg = shades(PICTURE, ["feed_forward.experts.gate_up_projection"], 2, {(0, 0): 0}, "layer")
    assert "….gate_up_projection" in svg
