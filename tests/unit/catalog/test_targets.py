"""Machines of one's own: used as they are described, refused where the description cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.catalog.project import Project
from orchestrator.catalog.target import Target
from orchestrator.errors import OrchestratorError

GOOD = """\
targets:
  workstation:
    description: A card beside other memory
    architecture: amd64
    gpu: {name: a card, sm: 120, count: 1, memory_bandwidth: 1.792e+12}
    memory: 96000000000
    reserve: 2000000000
"""


def described(folder: Path, text: str) -> Target:
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "targets").mkdir(exist_ok=True)
    (folder / "targets" / "own.yaml").write_text(text, encoding="utf-8")
    return Catalog(Project(folder)).target("workstation")


def test_a_machine_of_one_s_own_is_taken_as_it_is_described(tmp_path: Path) -> None:
    target = described(tmp_path, GOOD)
    assert target.usable_memory == 94_000_000_000
    assert target.cuda_free is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("1.792e+12", ".nan", "not a finite number"),
        ("1.792e+12", ".inf", "not a finite number"),
        ("1.792e+12", "0", "greater than 0"),
        ("1.792e+12", "-1", "greater than 0"),
        ("memory: 96000000000", "memory: 0", "greater than 0"),
        ("memory: 96000000000", "memory: 1000000000", "reserve 2000000000 leaves nothing of memory 1000000000"),
        ("reserve: 2000000000", "cuda_free: 97000000000", "cuda_free 97000000000 is more than memory"),
        ("sm: 120", "sm: 12.0", "integer"),
        ("description", "descripton", "descripton"),
    ],
)
def test_a_machine_that_cannot_be_is_a_clear_error(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(OrchestratorError, match=says) as caught:
        described(tmp_path, GOOD.replace(old, new))
    assert "own.yaml" in caught.value.message


def test_a_spark_says_what_cuda_sees_of_its_memory() -> None:
    for name in ("dgx-spark", "dgx-spark-x2"):
        target = Catalog(Project(Path(__file__).resolve().parents[3])).target(name)
        assert target.cuda_free == 101 * 2**30
        assert target.reserve == 12 * 2**30
        assert "cuda_free" in target.sources
