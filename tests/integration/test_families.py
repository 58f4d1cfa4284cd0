"""Families whose bytes equalled ModelOpt's in the last run of `make families` still do; the commit chooses them."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.families.__main__ import attempts
from tests.families.results import Results
from tests.support.environments import ROOT
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

_SAMPLE = 4
_SECONDS = 120


def test_a_sample_of_families_is_what_modelopt_writes(tmp_path: Path) -> None:
    environment = find_environment()
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]  # a fixed sample where there is no repository
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "no commit"
    known = [row.family for row in Results.read().rows if row.is_equal]
    families = random.Random(commit).sample(known, _SAMPLE)  # noqa: S311 - a sample
    print(f"seed {commit}: {', '.join(families)}")  # noqa: T201 - shown if it fails
    found = list(attempts(environment, tmp_path, families, formats=("nvfp4", "fp8"), seconds=_SECONDS))
    assert [row.family for row in found] == families
    assert [row for row in found if not row.is_equal] == []
