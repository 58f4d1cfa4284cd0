"""Pictures: named and described for who cannot see them, without colours or sizes of their own."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from orchestrator.pages.charts import Line, Picture, Range, Stack, ranges, stacks, steps

PICTURE = Picture("one", "A <title> & more", "What it shows")
STACK = stacks(PICTURE, [Stack("load", (40.0, 5.0), "45"), Stack("serve", (40.0, 77.0), "117")], 117.8, "limit", "GB")
RANGE = ranges(PICTURE, [Range("NVFP4", 4.0, 5.0, 6.0, 6.7, 0), Range("BF16", 1, 1.5, 2, 1.9, 0, dimmed=True)], "tok/s")
LINE = steps(PICTURE, [Line(0, ((1, 131072), (2, 65536), (4, 0))), Line(1, ())], "texts", "tokens", filled=True)
NOTHING = steps(PICTURE, [], "texts", "tokens")


@pytest.mark.parametrize("svg", [STACK, RANGE, LINE, NOTHING], ids=["stacks", "ranges", "steps", "empty"])
def test_a_picture_is_xml_with_a_title_and_a_description(svg: str) -> None:
    root = ET.fromstring(svg)  # noqa: S314 - our own
    space = "{http://www.w3.org/2000/svg}"
    title, description = root.find(f"{space}title"), root.find(f"{space}desc")
    assert title is not None
    assert description is not None
    assert title.text == PICTURE.title
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert root.get("role") == "img"
    assert root.get("width") is None


@pytest.mark.parametrize("svg", [STACK, RANGE, LINE], ids=["stacks", "ranges", "steps"])
def test_colours_are_the_pages(svg: str) -> None:
    assert not re.search("#[0-9a-f]{6}", svg)
    assert "var(--ink)" in svg


def test_the_same_picture_is_the_same_bytes() -> None:
    again = ranges(PICTURE, [Range("NVFP4", 4.0, 5.0, 6.0, 6.7, 0)], "tok/s")
    assert again == ranges(PICTURE, [Range("NVFP4", 4.0, 5.0, 6.0, 6.7, 0)], "tok/s")


def test_ids_of_two_pictures_differ() -> None:
    other = stacks(Picture("two", "t", "d"), [Stack("load", (1.0,), "1")], 2, "limit", "GB")
    first, second = (set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (STACK, other))
    assert first.isdisjoint(second)


def test_every_reference_inside_a_picture_leads_somewhere() -> None:
    for svg in (STACK, RANGE, LINE):
        ids = set(re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'(?:url\(#|xlink:href="#)([^")]+)', svg)) <= ids


def test_the_units_are_written_on_the_axes() -> None:
    assert ">GB<" in STACK
    assert ">tok/s<" in RANGE
    assert ">tokens<" in LINE
