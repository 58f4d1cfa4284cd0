"""Which magnitude of inputs is represented, from how large their blocks are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.quantization.activation_probe import Measured
from orchestrator.quantization.input_ranges import BINS, bin_of, range_of
from orchestrator.quantization.layer_encoding import InputScales
from orchestrator.quantization.report import Report, TensorReport
from orchestrator.quantization.schemes import SCHEMES, searching

_STEP = 2 ** (80 / 512)
"""Between bins."""


def _counts(**blocks: int) -> NDArray[np.int64]:
    """Count blocks by the number of their bin: `bin256=3`."""
    counts = np.zeros(BINS, np.int64)
    for name, count in blocks.items():
        counts[int(name.removeprefix("bin"))] = count
    return counts


def _middle(number: int) -> float:
    return float(2.0 ** (-40 + (number + 0.5) / 512 * 80))


def test_bins_are_equal_in_the_logarithm_and_the_outer_ones_take_the_rest() -> None:
    assert [bin_of(magnitude) for magnitude in (1.0, 1.1, 2.0**-40, 2.0**-60, 2.0**50)] == [256, 256, 0, 0, 511]
    assert bin_of(_STEP * 1.001) == 257


def test_small_blocks_decide() -> None:
    counts = _counts(bin200=2, bin256=98)
    assert range_of(counts, 1.05) == 16384 * _middle(200)
    assert range_of(_counts(bin200=1, bin256=199), 1.05) == 16384 * _middle(256)  # fewer than one of a hundred


def test_blocks_that_differ_too_much_leave_no_headroom() -> None:
    counts = _counts(bin150=50, bin256=50)
    assert _middle(256) / _middle(150) > 16384
    assert range_of(counts, 1.05) == _middle(256)


def test_a_block_in_ten_thousand_does_not_decide_alone() -> None:
    alone, more = (_counts(bin100=9_000, bin200=20_000 - 9_000 - count, bin300=count) for count in (1, 3))
    assert range_of(alone, 100.0) == _middle(200)
    assert range_of(more, 100.0) == _middle(300)


def test_blocks_of_almost_nothing_do_not_count_for_the_anchor() -> None:
    lowest = bin_of(_middle(256) / 1e6)
    assert range_of(_counts(**{f"bin{lowest - 1}": 50, "bin256": 50}), 1.05) == 16384 * _middle(256)
    assert range_of(_counts(**{f"bin{lowest}": 50, "bin256": 50}), 1.05) == _middle(256)


def test_without_blocks_the_largest_magnitude_is_taken() -> None:
    assert range_of(_counts(), 3.5) == 3.5


@given(st.dictionaries(st.integers(0, BINS - 1), st.integers(1, 10**7), min_size=1, max_size=20), st.integers(1, 100))
def test_more_of_the_same_changes_nothing(blocks: dict[int, int], times: int) -> None:
    counts = np.zeros(BINS, np.int64)
    counts[list(blocks)] = list(blocks.values())
    found = range_of(counts, 1.0)
    assert found >= _middle(min(blocks))
    assert found <= 16384 * _middle(max(blocks))
    if counts.sum() * times < 2**24:
        assert range_of(counts * times, 1.0) == found


# --- scales ---


def test_only_4_bit_inputs_leave_headroom() -> None:
    schemes = searching("max", input_scales="headroom")
    assert {name for name, scheme in schemes.items() if scheme.leaves_headroom} == {"nvfp4"}
    assert not any(scheme.leaves_headroom for scheme in SCHEMES.values())


@pytest.mark.parametrize(("represented", "cut_off"), [(9.0, False), (3.0, False), (2.0, True)])
def test_what_calibration_saw_and_is_cut_off_is_listed(represented: float, cut_off: bool) -> None:
    measured = Measured(inputs={"mlp.up_proj": 3.0}, headroom={"mlp.up_proj": represented})
    scales = InputScales.of("model.layers.0", measured)
    plain, headroom = (searching("max", input_scales=name)["nvfp4"] for name in ("max", "headroom"))
    module = "model.layers.0.mlp.up_proj"
    assert scales.scale(plain, module) == np.float32(3) / np.float32(2688)
    assert scales.scale(headroom, module) == np.float32(represented) / np.float32(2688)
    assert (scales.cuts_off(plain, module), scales.cuts_off(headroom, module)) == (False, cut_off)
    report = Report("nvfp4", "none", input_scales="headroom")
    report.tensors[module] = TensorReport(module, headroom, np.float32(1), cuts_off=cut_off)
    assert report.document()["input_scales"] == {"name": "headroom", "cut_off": [module] * cut_off}
    assert "input_scales" not in Report("nvfp4", "none").document()
