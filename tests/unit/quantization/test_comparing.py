"""What comparing two models takes of memory, and what goes to a file where that is not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.errors import MemoryBudgetError
from orchestrator.quantization import resources
from orchestrator.quantization.candidate_walk import Samples, needs_of
from orchestrator.quantization.candidates import parse
from orchestrator.quantization.comparing import comparison_needs, spills, spills_within
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.plan import Plan
from orchestrator.quantization.quantized import Quantized
from orchestrator.quantization.samples import Batch, random_batches
from orchestrator.quantization.schemes import SCHEMES, searching
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


def test_a_head_that_is_larger_than_a_layer_counts(pair: tuple[Plan, Quantized], batches: list[Batch]) -> None:
    host, _ = comparison_needs(pair[0], (0, 0, 0), batches, "cpu")
    ends = max(pair[0].spec(name).size for name in pair[0].ends)
    assert (host.head, host.products) == (ends, 0)
    wide = replace(host, head=10**9)
    assert wide.total(layers=1, spill=True) == host.libraries + 10**9


# --- candidates ---


def _plans(tiny: Path, names: str) -> dict[str, Plan]:
    return {one.name: Plan.make(tiny, searching(**one.values)["nvfp4"]) for one in parse(names)}


def _total(tiny: Path, names: str, samples: Samples, *, spill: bool) -> int:
    parts = needs_of(_plans(tiny, names), samples, "cpu", cast("Torch", None))
    return sum(part.total(layers=1, spill=spill) for part in parts)


def test_each_candidate_adds_the_hidden_states_of_held_out_samples(tiny: Path, batches: list[Batch]) -> None:
    samples = Samples(batches[:500], batches[500:])
    held_out, calibration = (
        2 * _HIDDEN * sum(one.tokens.size for one in part) for part in (batches[500:], batches[:500])
    )
    one, two = (_total(tiny, names, samples, spill=False) for names in ("max", "max,mse"))
    assert two - one == held_out
    assert one - _total(tiny, "max", samples, spill=True) == calibration + 2 * held_out
    assert _total(tiny, "max,mse", samples, spill=True) == _total(tiny, "max", samples, spill=True)


def test_gptq_adds_products_once_and_rounded_weights_of_each(tiny: Path, batches: list[Batch]) -> None:
    samples = Samples(batches[:2], batches[2:4])
    names = ("max", "max,max+gptq", "max,max+gptq,mse+gptq")
    plain, once, twice = (needs_of(_plans(tiny, each), samples, "cpu", cast("Torch", None))[0] for each in names)
    assert plain.products == 0 < twice.products - once.products < once.products


def test_local_hessian_adds_pairs_once(tiny: Path, batches: list[Batch]) -> None:
    samples = Samples(batches[:2], batches[2:4])
    names = ("max,local_hessian", "max+gptq", "max+gptq,local_hessian", "max+gptq,local_hessian+gptq")
    pairs, gptq, both, rounded = (
        needs_of(_plans(tiny, each), samples, "cpu", cast("Torch", None))[0].products for each in names
    )
    assert 0 < pairs == both - gptq
    assert rounded > gptq


def test_too_little_memory_for_candidates_is_refused_with_what_to_leave_out(tiny: Path, batches: list[Batch]) -> None:
    needs = needs_of(_plans(tiny, "max,mse+gptq"), Samples(batches, batches), "cpu", cast("Torch", None))
    with pytest.raises(MemoryBudgetError, match="comparing candidates needs") as caught:
        spills_within(*needs, WalkSettings(memory=10**6), cast("Torch", None))
    assert "fewer with +gptq" in caught.value.hint
