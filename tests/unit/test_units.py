"""Bytes as people read them."""

from __future__ import annotations

import pytest

from orchestrator.units import in_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99.94e6, "99.9 MB"),
        (423e6, "423.0 MB"),
        (999.96e6, "1.0 GB"),
        (39.71e9, "39.7 GB"),
        (1.26e12, "1.3 TB"),
    ],
)
def test_bytes_have_the_unit_that_leaves_up_to_three_digits_before_the_point(count: float, text: str) -> None:
    assert in_bytes(count) == text
