"""What comparing two models takes of memory, and what goes to a file where that is not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.errors import MemoryBudgetError
from orchestrator.quantization import resources
from orchestrator.quantization.comparing import spills
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.plan import Plan
from orchestrator.quantization.quantized import Quantized
from orchestrator.quantization.samples import Batch, random_batches
from orchestrator.quantization.schemes import SCHEMES
from orchestrator.quantization.torch_types import Torch
from orchestrator.quantization.walk import WalkSettings

_HIDDEN, _TOKENS = 64, 2000 * 128
_BOTH = 2 * 2 * _HIDDEN * _TOKENS
"""Bytes that flow between layers through both models, in BF16."""


@pytest.fixture(scope="module")
def pair(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Quantized]:
    folder = tmp_path_factory.mktemp("quantized")
    quantize_checkpoint(tiny, folder)
    plan = Plan.make(tiny, SCHEMES["fp8"])
    return plan, Quantized.open(folder, plan)


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    return random_batches(261, 2000, 128)


def _spills(pair: tuple[Plan, Quantized], batches: list[Batch], how: WalkSettings, gpu: object = None) -> bool:
    return spills(*pair, batches, how, cast("Torch", gpu))


def _least(pair: tuple[Plan, Quantized], batches: list[Batch]) -> int:
    """Find the smallest budget, to a kilobyte."""
    low, high = 0, 4_000_000_000
    while high - low > 1000:
        middle = (low + high) // 2
        try:
            _spills(pair, batches, WalkSettings(memory=middle))
            high = middle
        except MemoryBudgetError:
            low = middle
    return high


def test_what_flows_goes_to_a_file_where_the_budget_is_too_small_for_it(
    pair: tuple[Plan, Quantized], batches: list[Batch]
) -> None:
    least = _least(pair, batches)
    assert _spills(pair, batches, WalkSettings(memory=least))
    assert _spills(pair, batches, WalkSettings(memory=least + _BOTH - 2000))
    assert not _spills(pair, batches, WalkSettings(memory=least + _BOTH))
    assert _spills(pair, batches, WalkSettings(memory=least + _BOTH, spill=True))


def test_more_samples_take_no_more_than_flows(pair: tuple[Plan, Quantized], batches: list[Batch]) -> None:
    assert _least(pair, batches[:100]) == pytest.approx(_least(pair, batches), abs=2000)


def test_without_a_budget_what_the_machine_has_counts(
    pair: tuple[Plan, Quantized], batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "available", lambda: 10**12)
    assert not _spills(pair, batches, WalkSettings())
    monkeypatch.setattr(resources, "available", lambda: 10**8)
    with pytest.raises(MemoryBudgetError, match="the comparison needs"):
        _spills(pair, batches, WalkSettings())


class _Gpu:
    """What is asked of torch about a GPU."""

    def __init__(self, *, free: int, integrated: bool) -> None:
        properties = SimpleNamespace(is_integrated=integrated)
        self.cuda = SimpleNamespace(
            get_device_properties=lambda device: properties if device == "cuda" else None,
            mem_get_info=lambda device: (free, free) if device == "cuda" else None,
        )


def test_a_gpu_with_memory_of_its_own_decides_by_what_is_free_there(
    pair: tuple[Plan, Quantized], batches: list[Batch]
) -> None:
    how = WalkSettings(device="cuda", memory=10**11)
    assert not _spills(pair, batches, how, _Gpu(free=10**11, integrated=False))
    assert _spills(pair, batches, how, _Gpu(free=1_530_000_000, integrated=False))
    with pytest.raises(MemoryBudgetError, match="of the GPU's memory at least"):
        _spills(pair, batches, how, _Gpu(free=10**9, integrated=False))
    with pytest.raises(MemoryBudgetError, match="of memory at least"):
        _spills(pair, batches, WalkSettings(device="cuda", memory=10**9), _Gpu(free=10**11, integrated=False))


def test_a_gpu_that_shares_the_memory_takes_from_one_budget(pair: tuple[Plan, Quantized], batches: list[Batch]) -> None:
    gpu = _Gpu(free=0, integrated=True)
    assert not _spills(pair, batches, WalkSettings(device="cuda", memory=10**11), gpu)
    with pytest.raises(MemoryBudgetError):
        _spills(pair, batches, WalkSettings(device="cuda", memory=2 * 10**9), gpu)
