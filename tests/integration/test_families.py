"""Families whose bytes equalled ModelOpt's in the last run of `make families` still do; the commit chooses them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.families.__main__ import attempts
from tests.families.results import Results
from tests.support.oracle import find_environment
from tests.support.sample import sample, seed

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

_SAMPLE = 4
_ALWAYS = ("gpt2", "idefics3", "kosmos-2.5")
"""Transposed matrices, and models that look at devices before they call what is on them."""
_SECONDS = 120


def test_a_sample_of_families_is_what_modelopt_writes(tmp_path: Path) -> None:
    environment = find_environment()
    known = (row.family for row in Results.read().rows if row.is_equal and row.family not in _ALWAYS)
    families = [*_ALWAYS, *sample("families", known, _SAMPLE)]
    print(f"seed {seed()}: {', '.join(families)}")  # noqa: T201 - shown if it fails
    found = list(attempts(environment, tmp_path, families, formats=("nvfp4", "fp8"), seconds=_SECONDS))
    assert [row.family for row in found] == families
    assert [row for row in found if not row.is_equal] == []
