"""A budget is judged by shapes, before torch is loaded and any layer runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.errors import CheckpointError, DependencyMissingError, OrchestratorError, RecipeInvalidError
from orchestrator.payloads import generate
from orchestrator.quantization.auto import Budget, quantize_auto
from orchestrator.quantization.samples import random_batches


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)


def refusal(source: Path, budget: Budget) -> OrchestratorError:
    with pytest.raises(OrchestratorError) as caught:
        quantize_auto(source, source.parent / "out", random_batches(261, 1, 4), budget=budget)
    assert not (source.parent / "out").exists()
    return caught.value


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A model of which only `down_proj` has columns that NVFP4's blocks of 16 do not divide."""
    sizes: Mapping[str, int] = {"hidden-size": 32, "intermediate-size": 40, "layers": 1, "heads": 2, "kv-heads": 1}
    words = [word for key, size in sizes.items() for word in (f"--{key}", str(size))]
    generate.main(["--output", str(tmp_path / "odd"), "--vocab-size", "261", *words])
    return tmp_path / "odd"


@pytest.mark.parametrize(("bits", "enough"), [(4.4, False), (4.6, True), (9.0, True)])
def test_the_smallest_budget_is_four_bits_and_their_scales(tiny: Path, bits: float, *, enough: bool) -> None:
    found = refusal(tiny, Budget(bits_per_weight=bits))
    assert isinstance(found, DependencyMissingError if enough else RecipeInvalidError)


@pytest.mark.parametrize(("bits", "enough"), [(5.0, False), (5.6, True)])
def test_a_shape_that_four_bits_do_not_allow_takes_eight(odd: Path, bits: float, *, enough: bool) -> None:
    found = refusal(odd, Budget(bits_per_weight=bits))
    assert isinstance(found, DependencyMissingError if enough else RecipeInvalidError)


def test_a_source_is_never_the_output(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match="the output folder is the source folder"):
        quantize_auto(tiny, tiny, [], budget=Budget(bits_per_weight=5))
