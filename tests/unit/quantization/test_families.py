"""The table of families: complete, and the one that the documentation shows. Its cells are tests of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.quantization.format_names import KV_CACHE_FORMATS, SINGLE_FORMATS
from orchestrator.quantization.schemes import SCHEMES
from tests.support.architectures import ARCHITECTURES, selected
from tests.support.families import FAMILIES, FORMATS, SIZES, table

_PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "quantization.md"


def test_every_architecture_that_is_known_is_proved() -> None:
    assert {family.architecture for family in FAMILIES.values()} == set(ARCHITECTURES)


def test_every_format_is_proved() -> None:
    assert {wanted.number_format for wanted in FORMATS.values()} == set(SINGLE_FORMATS) == set(SCHEMES)
    assert {wanted.kv_cache for wanted in FORMATS.values()} == set(KV_CACHE_FORMATS)


def test_the_documentation_shows_the_table() -> None:
    assert f"<!-- families: kept by tests/support/families.py -->\n{table()}\n" in _PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_something_to_quantize(family: str) -> None:
    config = {
        **SIZES,
        **FAMILIES[family].config,
        "architectures": [FAMILIES[family].architecture],
        "dtype": "bfloat16",
    }
    selection = selected(config)
    assert len(selection.quantized) >= 3 * 2
    assert not selection.quantized & set(selection.excluded)
